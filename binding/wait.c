/* SPDX-License-Identifier: MIT */

#include "wait.h"

int
sstpy_wait_until(sstpy_call_fn call, void *context, int64_t deadline_ns)
{
    int rc = 0;

    for (;;) {
        Py_BEGIN_ALLOW_THREADS
        rc = call(context, deadline_ns);
        Py_END_ALLOW_THREADS

        if (rc != SST_EINTR) {
            return rc;
        }
        if (PyErr_CheckSignals() < 0) {
            return SSTPY_RAISED;
        }
    }
}
