/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_NEST_FORMAT_H
#define SSTPY_NEST_FORMAT_H

/* The bytes of a nest, which docs/internals/messages.rst describes: what nest_encode.c
 * and nest_decode.c must agree about. */

#include <stdbool.h>
#include <stdint.h>

#include "compat.h"

/* A first byte from here on is a tag and what is in its low bits. */
enum nest_range {
    NEST_SMALL = 0x00, /* an int from 0 to 127 */
    NEST_SHORT = 0x80, /* ASCII of up to 31 characters; NEST_SHORT_KEPT: remembered */
    NEST_SHORT_KEPT = 0xa0,
    NEST_NEAR = 0xc0, /* one of the first 32 objects remembered */
    NEST_TAGS = 0xe0, /* one of the tags */
};

/* The low bit of those with a size says that the object is remembered. */
enum nest_tag {
    NEST_NONE = 0xe0,
    NEST_FALSE = 0xe1,
    NEST_TRUE = 0xe2,
    NEST_INT8 = 0xe3,
    NEST_INT16 = 0xe4,
    NEST_INT32 = 0xe5,
    NEST_INT64 = 0xe6,
    NEST_INT_BIG = 0xe7,
    NEST_FLOAT = 0xe8,
    NEST_FAR = 0xe9, /* any object remembered */
    NEST_ASCII = 0xea,
    NEST_LATIN1 = 0xec,
    NEST_UCS2 = 0xee,
    NEST_UCS4 = 0xf0,
    NEST_BYTES = 0xf2,
    NEST_BYTEARRAY = 0xf4,
    NEST_TUPLE = 0xf6,
    NEST_LIST = 0xf8,
    NEST_DICT = 0xfa,
    NEST_SET = 0xfc,
    NEST_FROZENSET = 0xfe,
};

enum {
    NEST_VERSION = 1, /* the byte behind the message's tag */
    NEST_HEADER_SIZE = 2,
    NEST_KEPT = 1, /* the low bit of a tag */
    NEST_SHORT_MAX = 31,
    NEST_NEAR_MAX = 31,

    /* How deep containers may lie in each other: what both sides' C stacks bear, also
     * in a thread with a small one, and less than pickle manages anywhere. */
    NEST_DEPTH_MAX = 100,

    /* What hashing the keys may cost beyond looking at each byte once: so many steps
     * for each byte of the message, and so many in any case. */
    NEST_HASH_RATE = 64,
    NEST_HASH_FREE = 65536,
};

/* Take the steps that hashing `obj` costs from *budget. A tuple does not remember its
 * hash, so one that holds another twice, which holds another twice, and so on, costs
 * exponential time, and a long chain of them the C stack. False when the budget does
 * not suffice or it is too deep (nest_weigh.c). */
bool sstpy_nest_weigh(PyObject *obj, uint64_t *budget);

#endif
