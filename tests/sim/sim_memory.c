/* SPDX-License-Identifier: MIT */

/* The simulated memory: base/atomic.h over one buffer, with a store buffer for each
 * thread.
 *
 * As on x86 a thread sees its own stores at once and others see them later, in order;
 * in a weak world plain stores may overtake each other, as on aarch64, and only a store
 * marked as release waits for those before it. Loads are not reordered. */

#include <stdio.h>
#include <string.h>

#include "sim.h"

uint8_t sim_buffer[SIM_BUFFER_SIZE] __attribute__((aligned(4096)));

static size_t buffer_used;

struct name {
    const uint8_t *address;
    size_t size;
    const char *text;
};
static struct name names[256];
static uint32_t name_count;

void
sim_memory_reset(void)
{
    memset(sim_buffer, 0, buffer_used);
    buffer_used = 4096; /* offset 0 is nothing */
    name_count = 0;
}

static const char *
describe(const void *address)
{
    static char text[96];
    const uint8_t *const at = address;

    for (uint32_t i = name_count; i-- > 0;) {
        if (at >= names[i].address && at < names[i].address + names[i].size) {
            (void)snprintf(text, sizeof(text), "%s+%zu", names[i].text,
                           (size_t)(at - names[i].address));
            return text;
        }
    }
    if (at >= sim_buffer && at < sim_buffer + SIM_BUFFER_SIZE) {
        (void)snprintf(text, sizeof(text), "@%zu", (size_t)(at - sim_buffer));
    }
    else {
        (void)snprintf(text, sizeof(text), "private");
    }
    return text;
}

void
sim_name(const void *address, size_t size, const char *name)
{
    if (name_count < sizeof(names) / sizeof(names[0])) {
        names[name_count++] = (struct name){address, size, name};
    }
}

void *
sim_memory(size_t size, size_t alignment)
{
    const size_t at = (buffer_used + alignment - 1) & ~(alignment - 1);

    if (at + size > SIM_BUFFER_SIZE) {
        sim_fail("the simulated buffer is too small");
    }
    buffer_used = at + size;
    return sim_buffer + at;
}

/* ---- Memory ---- */

static uint64_t
read_bytes(const void *address, size_t size)
{
    uint64_t value = 0;

    memcpy(&value, address, size);
    return value;
}

static void
drain(struct sim_thread *thread, uint32_t index)
{
    const struct sim_store *const store = &thread->stores[index];

    memcpy(store->address, &store->value, store->size);
    thread->store_count--;
    memmove(&thread->stores[index], &thread->stores[index + 1],
            (thread->store_count - index) * sizeof(thread->stores[0]));
}

void
sim_drain_all(struct sim_thread *thread)
{
    while (thread->store_count != 0) {
        drain(thread, 0);
    }
}

static bool
overlaps(const struct sim_store *a, const struct sim_store *b)
{
    return a->address < b->address + b->size && b->address < a->address + a->size;
}

void
sim_drain_one(struct sim_thread *thread)
{
    uint32_t index = 0;

    if (sim.habits.weak && thread->store_count > 1) {
        const uint32_t wish = sim_below(thread->store_count);
        bool allowed = !thread->stores[wish].release;

        for (uint32_t i = 0; i < wish; i++) {
            allowed = allowed && !overlaps(&thread->stores[i], &thread->stores[wish]);
        }
        index = allowed ? wish : 0;
    }
    drain(thread, index);
}

uint64_t
sim_load(const void *address, size_t size)
{
    const struct sim_thread *const self = sim.current;
    uint8_t bytes[8] = {0};
    uint64_t value;

    sim_step();
    memcpy(bytes, address, size);
    for (uint32_t i = 0; self != NULL && i < self->store_count; i++) {
        const struct sim_store *const store = &self->stores[i];

        for (uint32_t b = 0; b < store->size; b++) {
            const ptrdiff_t at = store->address + b - (const uint8_t *)address;

            if (at >= 0 && at < (ptrdiff_t)size) {
                bytes[at] = ((const uint8_t *)&store->value)[b];
            }
        }
    }
    memcpy(&value, bytes, sizeof(value));
    if (sim.trace && self != NULL) {
        sim_trace("load  %s = %llx", describe(address), (unsigned long long)value);
    }
    return value;
}

void
sim_store(void *address, size_t size, uint64_t value, bool release)
{
    struct sim_thread *const self = sim.current;

    sim_step();
    if (self == NULL) {
        memcpy(address, &value, size);
        return;
    }
    if (sim.trace) {
        sim_trace("store %s = %llx%s", describe(address), (unsigned long long)value,
                  release ? " rel" : "");
    }
    if (self->store_count == SIM_STORES) {
        drain(self, 0);
    }
    self->stores[self->store_count++] =
        (struct sim_store){address, value, (uint32_t)size, release};
}

static uint64_t
apply(enum sim_rmw op, uint64_t old, uint64_t operand)
{
    switch (op) {
    case SIM_XCHG:
        return operand;
    case SIM_ADD:
        return old + operand;
    case SIM_SUB:
        return old - operand;
    case SIM_OR:
        return old | operand;
    case SIM_AND:
        return old & operand;
    }
    return old;
}

uint64_t
sim_rmw(void *address, size_t size, enum sim_rmw op, uint64_t operand)
{
    uint64_t old;
    uint64_t value;

    sim_fence();
    old = read_bytes(address, size);
    value = apply(op, old, operand);
    memcpy(address, &value, size);
    if (sim.trace && sim.current != NULL) {
        sim_trace("rmw   %s: %llx -> %llx", describe(address), (unsigned long long)old,
                  (unsigned long long)value);
    }
    return old;
}

bool
sim_cas(void *address, size_t size, void *expected, uint64_t desired)
{
    uint64_t old;
    bool swapped;

    sim_fence();
    old = read_bytes(address, size);
    swapped = old == read_bytes(expected, size);
    if (swapped) {
        memcpy(address, &desired, size);
    }
    else {
        memcpy(expected, &old, size);
    }
    if (sim.trace && sim.current != NULL) {
        sim_trace("cas   %s: %llx -> %llx%s", describe(address),
                  (unsigned long long)old, (unsigned long long)desired,
                  swapped ? "" : " no");
    }
    return swapped;
}

void
sim_fence(void)
{
    sim_step();
    if (sim.current != NULL) {
        sim_drain_all(sim.current);
    }
}

void
ssti_copy_in(void *shared, const void *from, size_t size)
{
    for (size_t done = 0; done < size; done += 8) {
        const size_t part = size - done < 8 ? size - done : 8;

        sim_store((uint8_t *)shared + done, part,
                  read_bytes((const uint8_t *)from + done, part), false);
    }
}

void
ssti_copy_out(void *to, const void *shared, size_t size)
{
    for (size_t done = 0; done < size; done += 8) {
        const size_t part = size - done < 8 ? size - done : 8;
        const uint64_t value = sim_load((const uint8_t *)shared + done, part);

        memcpy((uint8_t *)to + done, &value, part);
    }
}
