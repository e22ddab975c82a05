/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_TRANSPORT_H
#define SSTPY_TRANSPORT_H

/* What moves the bytes of a Connection whose descriptor alone does not: the contract
 * between _core, which has connections, and _tls, which has OpenSSL. A transport comes
 * in a capsule and belongs to the connection that took it out. */

#include "sidestep/sidestep.h"

#define SSTPY_TRANSPORT_NAME "sidestep transport"

struct sstpy_transport {
    struct sst_stream_io io;
    /* As sst_stream_poll. */
    int (*poll)(struct sstpy_transport *self, int64_t deadline_ns);
    /* From now on the descriptor, whose number stays, is a plain stream that anybody
     * may read, wait for or inherit. 0 or -errno; done already is 0. */
    int (*make_plain)(struct sstpy_transport *self);
    /* A forked child does without it, so a fork need not make it plain; and what is
     * sent has to be taken within the patience, or the connection fails. */
    void (*keep_private)(struct sstpy_transport *self, int64_t patience_ns);
    /* Close it and free it. True: the descriptor was closed with it. */
    bool (*close)(struct sstpy_transport *self);
};

#endif
