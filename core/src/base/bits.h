/* SPDX-License-Identifier: MIT */
#ifndef SSTI_BASE_BITS_H
#define SSTI_BASE_BITS_H

#include <stdbool.h>
#include <stdint.h>

static inline bool
ssti_is_power_of_two(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

/* `value` rounded up to a multiple of `unit`, a power of two. The caller knows that it
 * does not overflow. */
static inline uint64_t
ssti_round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) & ~(unit - 1);
}

static inline uint64_t
ssti_min(uint64_t left, uint64_t right)
{
    return left < right ? left : right;
}

static inline uint64_t
ssti_max(uint64_t left, uint64_t right)
{
    return left > right ? left : right;
}

/* The largest power of two not above `value`, which is not 0. */
static inline uint64_t
ssti_power_below(uint64_t value)
{
    return UINT64_C(1) << (63 - __builtin_clzll(value));
}

/* The exponent of the smallest power of two not below `value`. */
static inline uint32_t
ssti_log2_above(uint64_t value)
{
    return value <= 1 ? 0 : 64 - (uint32_t)__builtin_clzll(value - 1);
}

/* ---- Layout hashes: FNV-1a over sizes and offsets ---- */

#define SSTI_HASH_START UINT32_C(2166136261)

static inline uint32_t
ssti_hash(uint32_t hash, uint64_t value)
{
    for (int i = 0; i < 8; i++) {
        hash = (hash ^ (uint32_t)((value >> (8 * i)) & 0xff)) * UINT32_C(16777619);
    }
    return hash;
}

/* A hash of the numbers given, which are sizes and offsets of a struct in shared
 * memory. */
#define SSTI_LAYOUT_HASH(...)                      \
    ssti_hash_all((const uint64_t[]){__VA_ARGS__}, \
                  sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

static inline uint32_t
ssti_hash_all(const uint64_t *values, uint64_t count)
{
    uint32_t hash = SSTI_HASH_START;

    for (uint64_t i = 0; i < count; i++) {
        hash = ssti_hash(hash, values[i]);
    }
    return hash;
}

#endif
