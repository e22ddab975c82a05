/* SPDX-License-Identifier: MIT */
#ifndef SSTI_BASE_ATOMIC_H
#define SSTI_BASE_ATOMIC_H

/* Every access to shared memory goes through this header, so that the order of an
 * access is in its name and so that the simulation (tests/sim) can replace the whole
 * memory system: there each of these is a scheduling step, stores pass through a store
 * buffer, and a process may be killed between any two of them.
 *
 * Words are `_Atomic uint32_t` or `_Atomic uint64_t`. Read-modify-writes are
 * sequentially consistent: they are also the full fences that the wake-up handshakes
 * rely on. Bulk payload is copied by ssti_copy_in (private -> shared) and ssti_copy_out
 * (shared -> private); it is ordered by the word stores around it, never by itself. */

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#ifdef SSTI_SIM
# include "sim_atomic.h"
#else

# define ssti_load_rlx(ptr) atomic_load_explicit((ptr), memory_order_relaxed)
# define ssti_load_acq(ptr) atomic_load_explicit((ptr), memory_order_acquire)
# define ssti_store_rlx(ptr, val) \
     atomic_store_explicit((ptr), (val), memory_order_relaxed)
# define ssti_store_rel(ptr, val) \
     atomic_store_explicit((ptr), (val), memory_order_release)
# define ssti_xchg(ptr, val) \
     atomic_exchange_explicit((ptr), (val), memory_order_seq_cst)
# define ssti_cas(ptr, expected, desired)                                  \
     atomic_compare_exchange_strong_explicit((ptr), (expected), (desired), \
                                             memory_order_seq_cst,         \
                                             memory_order_acquire)
# define ssti_fetch_add(ptr, val) \
     atomic_fetch_add_explicit((ptr), (val), memory_order_seq_cst)
# define ssti_fetch_sub(ptr, val) \
     atomic_fetch_sub_explicit((ptr), (val), memory_order_seq_cst)
# define ssti_fetch_or(ptr, val) \
     atomic_fetch_or_explicit((ptr), (val), memory_order_seq_cst)
# define ssti_fetch_and(ptr, val) \
     atomic_fetch_and_explicit((ptr), (val), memory_order_seq_cst)
# define ssti_fence()          atomic_thread_fence(memory_order_seq_cst)

/* Orders the private `list_op_pending` slot against the lock word. The kernel reads
 * both in the context of the dying thread, so the compiler is all there is to
 * restrain. */
# define ssti_compiler_fence() atomic_signal_fence(memory_order_seq_cst)

static inline void
ssti_copy_in(void *shared, const void *from, size_t size)
{
    memcpy(shared, from, size);
}

static inline void
ssti_copy_out(void *to, const void *shared, size_t size)
{
    memcpy(to, shared, size);
}

static inline void
ssti_pause(void)
{
# if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
# elif defined(__aarch64__)
    __asm__ volatile("yield");
# endif
}

#endif
#endif
