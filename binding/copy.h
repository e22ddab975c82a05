/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_COPY_H
#define SSTPY_COPY_H

/* Copying large pieces of memory. */

#include <stdint.h>

/* Above this many bytes a copy is worth letting other threads run. */
#define SSTPY_DETACH_SIZE (64 * 1024)

/* From here on two processors copy, if they can. */
#define SSTPY_HELPED_SIZE (8 * 1024 * 1024)

/* As memcpy, without the GIL when it is long, and then perhaps by two processors. */
void sstpy_copy(void *to, const void *from, uint64_t size);

/* The same, and signals are looked at now and then. -1 with the exception of a
 * handler, the copy being half done. */
int sstpy_copy_checked(void *to, const void *from, uint64_t size);

#endif
