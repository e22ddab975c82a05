/* SPDX-License-Identifier: MIT */
#ifndef SSTI_PROC_ZYGOTE_H
#define SSTI_PROC_ZYGOTE_H

/* What owner (zygote.c) and zygote (serve.c) say to each other: packets over the
 * zygote's tether. Both run the same build: the arena's layout hash has been compared
 * before. */

#include <stdint.h>

enum {
    SSTI_ZYGOTE_MAGIC = 0x7a796701,
};

/* To the owner, once: the zygote is ready. */
struct ssti_zygote_hello {
    uint32_t magic;
    int32_t probe; /* who says it: a child made as the owner's own; 0: the zygote */
};

/* Owner to zygote, with the child's end of the tether first among the descriptors. */
struct ssti_zygote_request {
    uint32_t magic;
    uint32_t way; /* enum ssti_zygote_way */
    uint32_t die_with_parent;
    uint32_t reserved;
};

/* Zygote to owner. */
struct ssti_zygote_reply {
    uint32_t magic;
    int32_t pid; /* or a status */
    uint64_t seat;
};

#endif
