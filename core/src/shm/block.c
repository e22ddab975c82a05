/* SPDX-License-Identifier: MIT */

/* Blocks: shared bytes with an address.
 *
 * Small ones are in their slot, behind its header; larger ones have an extent, which
 * the slot names. The slot decides how long a block lives.
 *
 * Death table (process dies after ...)
 *   making the extent             its held entry frees it
 *   making the slot               its held entry destroys it; it names no extent yet
 *   moving the extent to it       one step (heap.c)
 *   destroying, extent freed      the slot names none any more: the next destroy finds
 * that */

#include <inttypes.h>
#include <stddef.h>

#include "base/alloc.h"
#include "base/atomic.h"
#include "base/bits.h"
#include "base/crashpoint.h"
#include "base/status.h"
#include "shm/view.h"

enum {
    INLINE_MAX = SSTI_SLOT_SIZE_MAX - (int)sizeof(struct sst_block_shm),
};

struct sst_block {
    struct sst_arena *arena;
    uint64_t offset; /* of the slot */
    uint64_t size;
    uint64_t extent; /* 0: inline */
    void *data;
    uint32_t held;
    uint32_t generation;
};

static void
block_destroy(struct sst_arena *arena, void *object)
{
    struct sst_block_shm *const shared = object;
    const uint64_t word = ssti_windows_offset(arena, &shared->extent);

    if (ssti_load_acq(&shared->extent) != 0) {
        ssti_extent_free_at(arena, word, 0);
        SST_CRASHPOINT(block_destroyed);
    }
}

static uint32_t
block_layout(void)
{
    return SSTI_LAYOUT_HASH(sizeof(struct sst_block_shm),
                            offsetof(struct sst_block_shm, size),
                            offsetof(struct sst_block_shm, extent));
}

void
ssti_block_register(void)
{
    static struct ssti_kind_ops ops = {.destroy = block_destroy};
    static _Atomic uint32_t is_done;

    if (ssti_load_acq(&is_done) == 0) {
        ops.layout = block_layout(); /* the same for every thread that comes by */
        ssti_kind_register(SST_KIND_BLOCK, &ops);
        ssti_store_rel(&is_done, 1);
    }
}

/* The address of the bytes, from a slot that is held. */
static int
open_data(struct sst_block *block, struct sst_error *err)
{
    struct sst_block_shm *const shared =
        ssti_arena_ptr(block->arena, block->offset, sizeof *shared);

    if (shared == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "the block's slot cannot be mapped");
    }
    block->generation = ssti_load_rlx(&shared->slot.generation);
    block->size = ssti_load_acq(&shared->size);
    block->extent = ssti_load_acq(&shared->extent);
    if (block->extent == 0) {
        if (block->size > INLINE_MAX) {
            return ssti_error_set(err, SST_ECORRUPT, "the block names no extent");
        }
        block->data = shared + 1;
        return 0;
    }
    if (ssti_extent_size(block->arena, block->extent) < block->size) {
        return ssti_error_set(err, SST_ECORRUPT, "the block is larger than its extent");
    }
    block->data = ssti_arena_pin(block->arena, block->extent, block->size);
    if (block->data == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "%" PRIu64 " bytes cannot be mapped",
                              block->size);
    }
    return 0;
}

/* The slot of a new block, with its bytes. */
static int
make(struct sst_block *block, uint64_t size, struct sst_error *err)
{
    const bool is_inline = size <= INLINE_MAX;
    const uint32_t slot_size =
        (uint32_t)(sizeof(struct sst_block_shm) + (is_inline ? size : 0));
    struct sst_block_shm *shared;
    uint64_t extent = 0;
    uint32_t extent_held = 0;
    int rc = 0;

    if (!is_inline) {
        rc = ssti_extent_create_zeroed(block->arena, size, &extent_held, &extent, err);
    }
    if (rc != 0) {
        return rc;
    }
    rc = ssti_slot_create(block->arena, SST_KIND_BLOCK, slot_size, &block->held,
                          &block->offset, err);
    if (rc != 0) {
        goto fail_slot;
    }
    shared = ssti_arena_ptr(block->arena, block->offset, slot_size);
    if (shared == NULL) {
        rc = ssti_error_set(err, SST_ENOMEM, "the block's slot cannot be mapped");
        goto fail_map;
    }
    ssti_store_rlx(&shared->size, size);
    SST_CRASHPOINT(block_sized);
    if (!is_inline) {
        ssti_extent_give(block->arena, extent_held,
                         block->offset + offsetof(struct sst_block_shm, extent));
    }
    return 0;

fail_map:
    ssti_slot_drop(block->arena, block->held);
fail_slot:
    if (!is_inline) {
        ssti_extent_drop(block->arena, extent_held);
    }
    return rc;
}

int
sst_block_create(struct sst_arena *arena, uint64_t size, struct sst_block **out,
                 struct sst_error *err)
{
    struct sst_block *block = ssti_alloc(sizeof *block);
    int rc;

    if (block == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "%s", sst_status_text(SST_ENOMEM));
    }
    ssti_block_register();
    block->arena = arena;
    rc = make(block, size, err);
    if (rc != 0) {
        goto fail_make;
    }
    rc = open_data(block, err);
    if (rc != 0) {
        goto fail_open;
    }
    *out = block;
    return 0;

fail_open:
    ssti_slot_drop(arena, block->held);
fail_make:
    ssti_free(block);
    return rc;
}

int
sst_block_attach(struct sst_arena *arena, const struct sst_handle *handle,
                 struct sst_block **out, struct sst_error *err)
{
    struct sst_block *block;
    int rc;

    if (handle->kind != SST_KIND_BLOCK) {
        return ssti_error_set(err, SST_EINVAL, "the handle names no block");
    }
    block = ssti_alloc(sizeof *block);
    if (block == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "%s", sst_status_text(SST_ENOMEM));
    }
    ssti_block_register();
    block->arena = arena;
    block->offset = handle->offset;
    rc = ssti_slot_hold(arena, handle, &block->held, err);
    if (rc != 0) {
        goto fail_hold;
    }
    rc = open_data(block, err);
    if (rc != 0) {
        goto fail_open;
    }
    *out = block;
    return 0;

fail_open:
    ssti_slot_drop(arena, block->held);
fail_hold:
    ssti_free(block);
    return rc;
}

void
sst_block_handle(const struct sst_block *block, struct sst_handle *out)
{
    *out = (struct sst_handle){
        .arena = block->arena->id,
        .offset = block->offset,
        .generation = block->generation,
        .kind = SST_KIND_BLOCK,
    };
}

struct sst_block *
sst_block_close(struct sst_block *block)
{
    if (block == NULL) {
        return NULL;
    }
    if (block->extent != 0) {
        ssti_arena_unpin(block->arena, block->extent, block->size);
    }
    ssti_slot_drop(block->arena, block->held);
    return ssti_free(block);
}

void *
sst_block_data(const struct sst_block *block)
{
    return block->data;
}

uint64_t
sst_block_size(const struct sst_block *block)
{
    return block->size;
}
