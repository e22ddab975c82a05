/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_SHARE_FORMAT_H
#define SSTPY_SHARE_FORMAT_H

/* The bytes of a share: words, records, and how a reader looks at them without
 * trusting them. docs/internals/share.rst has the format in words. Nothing of Python is
 * in here. */

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define SHARE_MAGIC   UINT64_C(0x3145524148535353) /* "SSSHARE1" */
#define SHARE_VERSION 1

/* At offset 0. Offsets count from here; everything behind it is 8-byte aligned. */
struct share_header {
    uint64_t magic;
    uint64_t version;
    uint64_t size; /* of everything, this included */
    uint64_t root; /* a word */
    uint64_t seed; /* of the hashes */
    uint64_t reserved[3];
};

_Static_assert(sizeof(struct share_header) == 64, "the first cache line");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "numbers are stored as they are");

/* ---- Words ---- */

/* A word is an IEEE 754 double unless its top 13 bits are set, which are the NaNs that
 * no arithmetic makes; then three bits of tag and 48 bits of payload follow. */
#define SHARE_BOXED UINT64_C(0xFFF8000000000000)
#define SHARE_LOW48 UINT64_C(0x0000FFFFFFFFFFFF)

enum share_tag {
    SHARE_TAG_SPECIAL, /* payload: enum share_special */
    SHARE_TAG_INT,     /* 48 bits, two's complement */
    SHARE_TAG_STR,     /* length and up to five Latin-1 characters */
    SHARE_TAG_BYTES,   /* length and up to five bytes */
    SHARE_TAG_INT64,   /* offset of 8 bytes, two's complement */
    SHARE_TAG_RECORD,  /* offset of a record */
};

enum share_special {
    SHARE_INVALID,
    SHARE_NONE,
    SHARE_FALSE,
    SHARE_TRUE
};

enum {
    SHARE_SHORT_MAX = 5
};

static inline uint64_t
share_word(enum share_tag tag, uint64_t payload)
{
    return SHARE_BOXED | (uint64_t)tag << 48 | (payload & SHARE_LOW48);
}

static inline bool
share_is_double(uint64_t word)
{
    return word < SHARE_BOXED;
}

static inline bool
share_is(uint64_t word, enum share_tag tag)
{
    return word >> 48 == (SHARE_BOXED >> 48 | (uint64_t)tag);
}

static inline uint64_t
share_payload(uint64_t word)
{
    return word & SHARE_LOW48;
}

static inline bool
share_int_fits(int64_t value)
{
    return value >= -(INT64_C(1) << 47) && value < INT64_C(1) << 47;
}

static inline int64_t
share_int_value(uint64_t word)
{
    return (int64_t)(word << 16) >> 16;
}

static inline unsigned
share_short_length(uint64_t word)
{
    return (unsigned)(word & 0xFF);
}

/* ---- Records ---- */

enum share_kind {
    SHARE_KIND_NONE,
    SHARE_KIND_STR,
    SHARE_KIND_BYTES,
    SHARE_KIND_INT,     /* more than 64 bits */
    SHARE_KIND_FLOAT,   /* the NaNs that words cannot be */
    SHARE_KIND_COMPLEX, /* */
    SHARE_KIND_TUPLE,
    SHARE_KIND_LIST,
    SHARE_KIND_DICT,
    SHARE_KIND_SET,
    SHARE_KIND_FROZENSET,
    SHARE_KIND_ARRAY,
    SHARE_KIND_COUNT,
};

enum share_flag {
    SHARE_FLAG_MEMO = 1,     /* more than one word may name it */
    SHARE_FLAG_LONG = 2,     /* str, bytes: the length and the place follow */
    SHARE_FLAG_KEYS = 4,     /* elements, or keys: 64-bit integers instead of words */
    SHARE_FLAG_VALUES = 8,   /* and the values */
    SHARE_FLAG_NEGATIVE = 4, /* int */
    SHARE_FLAG_FORTRAN = 4,  /* array: the first index runs fastest */
    SHARE_FLAG_WIDE = 4,     /* str: two bytes a character */
    SHARE_FLAG_WIDER = 8,    /* four */
};

/* First word of every record: kind, flags and 48 bits of count. That of str and bytes
 * has 16 bits of length and 32 bits of hash instead. */
static inline uint64_t
share_head(enum share_kind kind, unsigned flags, uint64_t count)
{
    return (uint64_t)kind | (uint64_t)flags << 8 | count << 16;
}

static inline enum share_kind
share_head_kind(uint64_t head)
{
    return (enum share_kind)(head & 0xFF);
}

static inline unsigned
share_head_flags(uint64_t head)
{
    return (unsigned)(head >> 8 & 0xFF);
}

static inline uint64_t
share_head_count(uint64_t head)
{
    return head >> 16;
}

static inline uint64_t
share_text_head(enum share_kind kind, unsigned flags, uint64_t length, uint64_t hash)
{
    return (uint64_t)kind | (uint64_t)flags << 8 | (length & 0xFFFF) << 16 |
           hash >> 32 << 32;
}

/* Bytes per character of a str. */
static inline unsigned
share_text_width(unsigned flags)
{
    return (flags & SHARE_FLAG_WIDER) != 0 ? 4 : (flags & SHARE_FLAG_WIDE) != 0 ? 2 : 1;
}

/* Behind the head of an array. */
struct share_array {
    uint64_t size; /* bytes */
    uint64_t data; /* their offset, a multiple of 64 */
    uint64_t item_size;
    uint64_t format;  /* word: bytes, of the module struct */
    uint64_t meta;    /* word: what the Python side needs to know */
    uint64_t shape[]; /* as many as the head counts */
};

enum {
    SHARE_DIMENSIONS_MAX = 64
};

/* ---- Tables: dict, set, frozenset ---- */

/* head, entries, slots. An entry of a dict is two words, key and value, of a set one,
 * in the order of insertion. Up to eight entries there is one word of hash bytes
 * between head and entries and no slots. The slots are an open addressing table; each
 * has the entry's number plus one in its low bits and bits of the hash above, 0 is
 * free. All sizes follow from the count. */
enum {
    SHARE_SMALL_TABLE = 8
};

static inline uint64_t
share_table_slots(uint64_t count)
{
    return count <= SHARE_SMALL_TABLE ? 0 : count + count / 2 + 1;
}

static inline unsigned
share_table_width(uint64_t count)
{
    return count < 1 << 11 ? 2 : count < UINT64_C(1) << 31 ? 4 : 8;
}

static inline unsigned
share_table_bits(uint64_t count)
{
    return 64 - (unsigned)__builtin_clzll(count | 1);
}

static inline uint64_t
share_table_size(uint64_t count, unsigned stride)
{
    const uint64_t small = count > 0 && count <= SHARE_SMALL_TABLE ? 8 : 0;
    const uint64_t slots = share_table_slots(count) * share_table_width(count);

    return 8 + small + count * stride * 8 + ((slots + 7) & ~UINT64_C(7));
}

__extension__ typedef unsigned __int128 share_u128;

/* Where the search for a hash begins: its high bits, scaled to the number of slots. */
static inline uint64_t
share_table_start(uint64_t hash, uint64_t slots)
{
    return (uint64_t)((share_u128)hash * slots >> 64);
}

/* What a slot of this hash has above the entry's number. */
static inline uint64_t
share_table_tag(uint64_t hash, uint64_t count)
{
    const unsigned bits = share_table_bits(count);
    const unsigned tags = share_table_width(count) * 8 - bits;

    return (hash & ((UINT64_C(1) << tags) - 1)) << bits;
}

static inline uint64_t
share_slot_read(const void *slots, unsigned width, uint64_t index)
{
    uint64_t value = 0;

    memcpy(&value, (const unsigned char *)slots + index * width, width);
    return value;
}

static inline void
share_slot_write(void *slots, unsigned width, uint64_t index, uint64_t value)
{
    memcpy((unsigned char *)slots + index * width, &value, width);
}

/* ---- Reading without trust ---- */

/* The memory of one share, and nothing beyond it. */
struct share_span {
    const unsigned char *base;
    uint64_t size;
};

/* `size` bytes at an offset that was read: NULL when they are not all inside, or not
 * aligned as everything is. */
static inline const void *
share_at(const struct share_span *span, uint64_t offset, uint64_t size)
{
    if (offset < sizeof(struct share_header) || offset % 8 != 0 ||
        offset > span->size || size > span->size - offset) {
        return NULL;
    }
    return span->base + offset;
}

static inline uint64_t
share_load(const void *at)
{
    uint64_t value = 0;

    memcpy(&value, at, sizeof(value));
    return value;
}

/* A str or bytes in a record. */
struct share_text {
    const void *data;
    uint64_t length; /* characters */
    unsigned width;
    uint32_t hash;
};

/* False when it reaches beyond the span. `head` is the record's first word at `offset`,
 * which was read. */
static inline bool
share_text_read(const struct share_span *span, uint64_t offset, uint64_t head,
                struct share_text *out)
{
    const unsigned flags = share_head_flags(head);
    uint64_t data = offset + 8;

    out->hash = (uint32_t)(head >> 32);
    out->width = share_head_kind(head) == SHARE_KIND_STR ? share_text_width(flags) : 1;
    out->length = head >> 16 & 0xFFFF;
    if ((flags & SHARE_FLAG_LONG) != 0) {
        const void *const tail = share_at(span, data, 16);
        if (tail == NULL) {
            return false;
        }
        out->length = share_load(tail);
        data = share_load((const unsigned char *)tail + 8);
    }
    if (out->length > span->size) {
        return false; /* and the product cannot overflow: spans are below 2^48 */
    }
    out->data = share_at(span, data, out->length * out->width);
    return out->data != NULL;
}

/* A table of `stride` words an entry. */
struct share_table {
    const unsigned char *entries;
    const unsigned char *slots; /* of a small table: the word of hash bytes */
    uint64_t count;
    unsigned stride;
    unsigned flags;
};

static inline bool
share_table_read(const struct share_span *span, uint64_t offset, uint64_t head,
                 struct share_table *out)
{
    const uint64_t count = share_head_count(head);

    out->stride = share_head_kind(head) == SHARE_KIND_DICT ? 2 : 1;
    out->flags = share_head_flags(head);
    out->count = count;
    if (count > span->size) {
        return false;
    }

    const unsigned char *const at =
        share_at(span, offset, share_table_size(count, out->stride));
    if (at == NULL) {
        return false;
    }

    const bool is_small = count > 0 && count <= SHARE_SMALL_TABLE;
    out->entries = at + (is_small ? 16 : 8);
    out->slots = is_small ? at + 8 : out->entries + count * out->stride * 8;
    return true;
}

#endif
