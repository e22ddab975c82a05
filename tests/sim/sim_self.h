/* SPDX-License-Identifier: MIT */
#ifndef SIM_SELF_H
#define SIM_SELF_H

/* os/self.h for a simulated thread. `pending` is what the simulated kernel reads when
 * the thread dies. Setting it is no step: the thread may be killed before the next
 * shared access, and is then seen with the new value, or before the previous one, with
 * the old. */

struct ssti_self {
    uint32_t tid;
    uint32_t just_woke;
    uint32_t was_woken;
    _Atomic uint32_t *pending;
};

struct ssti_self *ssti_self(void);

static inline void
ssti_pend(struct ssti_self *self, _Atomic uint32_t *word)
{
    self->pending = word;
}

static inline void
ssti_unpend(struct ssti_self *self)
{
    self->pending = NULL;
}

#endif
