/* SPDX-License-Identifier: MIT */
#ifndef SSTI_BASE_ASSERT_H
#define SSTI_BASE_ASSERT_H

/* sst_assert guards our own invariants, in release builds too; sst_dassert in debug
 * builds only. Never on what another process, the network, the kernel or the user
 * handed us. */

/* Writes file, line and condition to standard error with one write(2) and aborts. Safe
 * in signal handlers and between fork and exec. */
_Noreturn void ssti_assert_failed(const char *file, int line, const char *condition);

#define sst_assert(cond)                                   \
    do {                                                   \
        if (__builtin_expect(!(cond), 0)) {                \
            ssti_assert_failed(__FILE__, __LINE__, #cond); \
        }                                                  \
    } while (0)

#ifdef NDEBUG
# define sst_dassert(cond) ((void)sizeof(cond))
#else
# define sst_dassert(cond) sst_assert(cond)
#endif

#endif
