/* SPDX-License-Identifier: MIT */
#ifndef SSTI_OS_SELF_H
#define SSTI_OS_SELF_H

/* What a thread needs at hand on every operation: its thread id as the kernel writes it
 * into lock words, and the slot in which the kernel looks for a lock operation under
 * way when the thread dies (`list_op_pending` of the robust list head glibc
 * registered).
 *
 * ssti_self() gives the calling thread's; in a forked child the atfork handler
 * refreshes the id. */

#include <stdint.h>

#include "base/atomic.h"

#ifdef SSTI_SIM
# include "sim_self.h"
#else

struct ssti_self {
    uint32_t tid;       /* 0 until first use in this thread */
    uint32_t just_woke; /* this thread's last action woke somebody: do not spin next */
    /* the operation under way slept and was woken: see ssti_view_wait */
    uint32_t was_woken;
    void *volatile *pending; /* &robust_list_head.list_op_pending */
    long futex_offset;       /* kernel: word = pending + futex_offset */
};

extern _Thread_local struct ssti_self ssti_self_tls
    __attribute__((tls_model("initial-exec")));

/* Slow path of ssti_self(): reads the TID and the robust list head. */
struct ssti_self *ssti_self_init(void);

/* In the child of a raw clone, which runs no atfork handlers: read them again. */
void ssti_self_refresh(void);

static inline struct ssti_self *
ssti_self(void)
{
    struct ssti_self *const self = &ssti_self_tls;

    return self->tid != 0 ? self : ssti_self_init();
}

/* Tell the kernel which lock word this thread is about to take, hold, or wake on. When
 * the thread dies meanwhile, the kernel marks a word it owned OWNER_DIED and wakes one
 * sleeper if WAITERS is set, and wakes one sleeper of a word nobody owns
 * (kernel/futex/core.c, handle_futex_death). */
static inline void
ssti_pend(struct ssti_self *self, _Atomic uint32_t *word)
{
    *self->pending = (void *)((uintptr_t)word - (uintptr_t)self->futex_offset);
    ssti_compiler_fence();
}

static inline void
ssti_unpend(struct ssti_self *self)
{
    ssti_compiler_fence();
    *self->pending = NULL;
}

#endif
#endif
