/* SPDX-License-Identifier: MIT */
#ifndef SIM_ATOMIC_H
#define SIM_ATOMIC_H

/* The memory system of base/atomic.h, simulated: each access is a scheduling step,
 * stores wait in the thread's store buffer until they are drained or a
 * read-modify-write needs them out. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sim_rmw {
    SIM_XCHG,
    SIM_ADD,
    SIM_SUB,
    SIM_OR,
    SIM_AND,
};

uint64_t sim_load(const void *address, size_t size);
void sim_store(void *address, size_t size, uint64_t value, bool release);
uint64_t sim_rmw(void *address, size_t size, enum sim_rmw op, uint64_t operand);
bool sim_cas(void *address, size_t size, void *expected, uint64_t desired);
void sim_fence(void);
void sim_pause(void);
void ssti_copy_in(void *shared, const void *from, size_t size);
void ssti_copy_out(void *to, const void *shared, size_t size);

#define SIM_TYPE(ptr) __typeof__((void)0, *(ptr))
#define SIM_WORD(val) ((uint64_t)(val))

#define ssti_load_rlx(ptr)       ((SIM_TYPE(ptr))sim_load((ptr), sizeof(*(ptr))))
#define ssti_load_acq(ptr)       ssti_load_rlx(ptr)
#define ssti_store_rlx(ptr, val) sim_store((ptr), sizeof(*(ptr)), SIM_WORD(val), false)
#define ssti_store_rel(ptr, val) sim_store((ptr), sizeof(*(ptr)), SIM_WORD(val), true)
/* A statement expression, for callers that drop the old value. */
#define SIM_RMW(ptr, op, val)                                                         \
    __extension__({                                                                   \
        SIM_TYPE(ptr)                                                                 \
        sim_old = (SIM_TYPE(ptr))sim_rmw((ptr), sizeof(*(ptr)), (op), SIM_WORD(val)); \
        sim_old;                                                                      \
    })
#define ssti_xchg(ptr, val) SIM_RMW(ptr, SIM_XCHG, val)
#define ssti_cas(ptr, expected, desired) \
    sim_cas((ptr), sizeof(*(ptr)), (expected), SIM_WORD(desired))
#define ssti_fetch_add(ptr, val) SIM_RMW(ptr, SIM_ADD, val)
#define ssti_fetch_sub(ptr, val) SIM_RMW(ptr, SIM_SUB, val)
#define ssti_fetch_or(ptr, val)  SIM_RMW(ptr, SIM_OR, val)
#define ssti_fetch_and(ptr, val) SIM_RMW(ptr, SIM_AND, val)
#define ssti_fence()             sim_fence()
#define ssti_compiler_fence()    ((void)0)
#define ssti_pause()             sim_pause()

#endif
