/* SPDX-License-Identifier: MIT */

/* Asking before memory grows. In a control group the page fault that goes over the
 * limit is answered with SIGKILL and nothing else, so the question comes before the
 * fault. Reading the kernel's figures takes about 100 microseconds, as much as filling
 * 200 KiB; therefore a yes is given for more than was asked, up to a small part of what
 * is left. */

#include <inttypes.h>

#include "base/bits.h"
#include "base/status.h"
#include "os/os.h"
#include "shm/view.h"

#define ADVANCE_MAX (UINT64_C(64) << 20)
#define MARGIN      (UINT64_C(4) << 20) /* for stacks, page tables, the error itself */

int
ssti_budget_ask(uint64_t bytes, uint64_t *granted, struct sst_error *err)
{
    const char *limiter = "";
    const uint64_t left = ssti_os_memory_available(&limiter);

    if (bytes > left || left - bytes < MARGIN) {
        return ssti_error_set(err, SST_ELIMIT,
                              "%" PRIu64 " bytes are needed, %s leaves %" PRIu64, bytes,
                              limiter, left);
    }
    *granted = bytes + ssti_min((left - bytes) / 16, ADVANCE_MAX);
    return 0;
}
