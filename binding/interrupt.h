/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_INTERRUPT_H
#define SSTPY_INTERRUPT_H

/* Interrupts at the wrong moment.
 *
 * A thread that takes results for everybody runs Python code meanwhile, and on the main
 * thread a signal handler may raise inside of it: KeyboardInterrupt, mostly. That means
 * the program, not the result that happened to be in hand. So the exception is held,
 * the step is done again, and who called us raises it when all is handed out.
 *
 * Such a step is a loop:
 *
 *     struct sstpy_retry retry = {0};
 *     do {
 *         object = step();
 *     } while (object == NULL && sstpy_retry(&retry));
 *
 * A step that does it again and again does it by itself: then the exception is its own,
 * and set. */

#include <stdbool.h>

#include "compat.h"

struct sstpy_retry {
    int count;
    bool held; /* by this one, not before */
};

/* A step failed. True: it was interrupted, and is to be done again. False: the
 * exception that is set is its own. */
bool sstpy_retry(struct sstpy_retry *retry);

/* Hold the exception that is set, if it is no Exception, unless the thread holds one
 * already; tell whether it was one of that kind. It is not set any more then. */
bool sstpy_interrupt_hold(void);

/* Set the exception that this thread holds: -1; or 0, there is none. */
int sstpy_interrupt_raise(void);

/* The same once the thread is in Python again: for who has something to return. */
void sstpy_interrupt_raise_later(void);

#endif
