/* SPDX-License-Identifier: MIT */

/* The life of a pipe: made, attached, handed on, closed, destroyed.
 *
 * A pipe is three slots. One has the rings, and is held by everybody who has an end
 * open. The other two have nothing in them: each stands for an end, and is held by
 * those who have that end. The held tables keep their counts right over forks, closes
 * and deaths, so whether anybody could still read is one load of the slot's state. The
 * sockets say the same for those who sleep.
 *
 * An end is handed to another process as the pipe's handle and a descriptor of the
 * end's socket; it must stay open at the giver's until the other has attached.
 *
 * Death table (process dies while ...)
 *   creating or attaching   slots and sockets go with it
 *   destroying              the sweeper runs destroy again, on what is left */

#include <stddef.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/status.h"
#include "os/os.h"
#include "ring/kinds.h"
#include "ring/pipe.h"
#include "ring/ring.h"
#include "shm/arena.h"
#include "shm/layout.h"
#include "sidestep/sidestep.h"
#include "sync/view.h"

#define HELD_NONE UINT32_MAX

/* Make a view of the object at `shm`; view.arena and view.offset are set.
 * SST_ECORRUPT. */
static int
bind(struct sst_pipe *pipe, struct sst_pipe_shm *shm, uint32_t end)
{
    const struct sst_pipe_end_shm *const other = &shm->end[1 - end];
    const bool duplex = ssti_load_rlx(&shm->duplex) != 0;

    pipe->shm = shm;
    pipe->self = pipe;
    pipe->view.leaf = &shm->leaf;
    pipe->view.repair = ssti_pipe_repair;
    pipe->end = end;
    pipe->can_recv = duplex || end == 0;
    pipe->can_send = duplex || end == 1;
    pipe->other_generation = ssti_load_rlx(&other->generation);
    pipe->other_hold = ssti_arena_ptr(pipe->view.arena, ssti_load_rlx(&other->slot),
                                      sizeof(struct sst_pipe_hold_shm));
    ssti_ring_view(&pipe->in, pipe->view.arena, &shm->ring[end], pipe->view.offset);
    ssti_ring_view(&pipe->out, pipe->view.arena, &shm->ring[1 - end],
                   pipe->view.offset);
    return pipe->other_hold != NULL ? 0 : SST_ECORRUPT;
}

static struct sst_pipe *
new_view(void)
{
    struct sst_pipe *const pipe = ssti_alloc(sizeof *pipe);

    if (pipe != NULL) {
        pipe->fd = -1;
        pipe->end_held = HELD_NONE;
        pipe->view.held = HELD_NONE;
    }
    return pipe;
}

static struct sst_pipe *
free_view(struct sst_pipe *pipe)
{
    if (pipe == NULL) {
        return NULL;
    }
    if (pipe->end_held != HELD_NONE) {
        ssti_slot_drop(pipe->view.arena, pipe->end_held);
    }
    if (pipe->view.held != HELD_NONE) {
        ssti_view_fini(&pipe->view);
    }
    if (pipe->fd >= 0) {
        ssti_os_close(pipe->fd);
    }
    return ssti_free(pipe);
}

/* Make the slot that stands for an end, held by that end's view. */
static int
create_hold(struct sst_pipe *pipe, struct sst_pipe_shm *shm, uint32_t end,
            struct sst_error *err)
{
    struct sst_pipe_hold_shm *hold;
    const struct sst_slot_shm *slot;
    uint64_t offset;
    uint32_t held;
    int rc = ssti_slot_create(pipe->view.arena, SST_KIND_PIPE, sizeof *hold, &held,
                              &offset, err);

    if (rc < 0) {
        return rc;
    }
    pipe->end_held = held;
    hold = ssti_arena_ptr(pipe->view.arena, offset, sizeof *hold);
    if (hold == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "the slot's memory cannot be mapped");
    }
    slot = (const struct sst_slot_shm *)(const void *)hold;
    ssti_store_rlx(&hold->end, end);
    ssti_store_rlx(&hold->role, SSTI_PIPE_HOLD);
    ssti_store_rlx(&shm->end[end].slot, offset);
    ssti_store_rlx(&shm->end[end].generation, ssti_load_rlx(&slot->generation));
    return 0;
}

/* The pipe's own slot, held by both views. */
static int
create_rings(struct sst_pipe *const pipe[2], struct sst_arena *arena, bool duplex,
             struct sst_pipe_shm **shm, struct sst_error *err)
{
    struct ssti_view view = {.held = HELD_NONE};
    struct sst_handle handle;
    void *object;
    int rc = ssti_view_create(&view, arena, SST_KIND_PIPE, sizeof **shm, &object, err);

    if (rc < 0) {
        return rc;
    }
    pipe[0]->view = view;
    ssti_view_handle(&view, &handle);
    *shm = object;
    ssti_store_rlx(&(*shm)->duplex, duplex ? 1 : 0);
    ssti_store_rlx(&(*shm)->offset, view.offset);
    ssti_ring_format(&(*shm)->ring[0], 0, SSTI_PIPE_BYTES);
    ssti_ring_format(&(*shm)->ring[1], 0, SSTI_PIPE_BYTES);
    ssti_store_rlx(&(*shm)->role, SSTI_PIPE_RINGS);

    rc = ssti_view_attach(&view, arena, SST_KIND_PIPE, sizeof **shm, &handle, &object,
                          err);
    if (rc < 0) {
        return rc;
    }
    pipe[1]->view = view;
    return 0;
}

int
sst_pipe_create(struct sst_arena *arena, bool duplex, struct sst_pipe **end0,
                struct sst_pipe **end1, struct sst_error *err)
{
    struct sst_pipe *pipe[2] = {new_view(), new_view()};
    struct sst_pipe_shm *shm;
    int fds[2];
    int rc = SST_ENOMEM;

    if (pipe[0] == NULL || pipe[1] == NULL) {
        rc = ssti_error_set(err, rc, "no memory for a pipe");
        goto fail;
    }
    rc = ssti_os_pair_open(fds);
    if (rc < 0) {
        rc = ssti_error_set(err, rc, "no sockets for a pipe");
        goto fail;
    }
    pipe[0]->fd = fds[0];
    pipe[1]->fd = fds[1];
    rc = create_rings(pipe, arena, duplex, &shm, err);
    for (uint32_t end = 0; rc == 0 && end < 2; end++) {
        rc = create_hold(pipe[end], shm, end, err);
    }
    for (uint32_t end = 0; rc == 0 && end < 2; end++) {
        rc = bind(pipe[end], shm, end);
    }
    if (rc < 0) {
        goto fail;
    }
    *end0 = pipe[0];
    *end1 = pipe[1];
    return 0;

fail:
    free_view(pipe[1]);
    free_view(pipe[0]);
    return rc;
}

int
sst_pipe_attach(struct sst_arena *arena, const struct sst_handle *handle, int end,
                int fd_take, struct sst_pipe **out, struct sst_error *err)
{
    struct ssti_view view = {.held = HELD_NONE};
    struct sst_pipe *pipe = NULL;
    struct sst_handle hold;
    struct sst_pipe_shm *shm;
    void *object;
    uint32_t held;
    int rc;

    if (end < 0 || end > 1) {
        return ssti_error_set(err, SST_EINVAL, "a pipe has ends 0 and 1, not %d", end);
    }
    pipe = new_view();
    if (pipe == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for a pipe");
    }
    rc = ssti_view_attach(&view, arena, SST_KIND_PIPE, sizeof *shm, handle, &object,
                          err);
    if (rc < 0) {
        goto fail;
    }
    pipe->view = view;
    shm = object;
    if (ssti_load_acq(&shm->role) != SSTI_PIPE_RINGS) {
        rc = ssti_error_set(err, SST_EINVAL, "the handle names no pipe");
        goto fail;
    }
    hold = (struct sst_handle){
        .arena = sst_arena_id(arena),
        .offset = ssti_load_rlx(&shm->end[end].slot),
        .generation = ssti_load_rlx(&shm->end[end].generation),
        .kind = SST_KIND_PIPE,
    };
    rc = ssti_slot_hold(arena, &hold, &held, err);
    if (rc < 0) {
        goto fail;
    }
    pipe->end_held = held;
    rc = bind(pipe, shm, (uint32_t)end);
    if (rc < 0) {
        ssti_error_set(err, rc, "the pipe's other end is nowhere");
        goto fail;
    }
    pipe->fd = fd_take;
    *out = pipe;
    return 0;

fail:
    free_view(pipe);
    return rc;
}

void
sst_pipe_handle(const struct sst_pipe *pipe, struct sst_handle *out, int *end)
{
    ssti_view_handle(&pipe->view, out);
    *end = (int)pipe->end;
}

void
sst_pipe_end_handle(const struct sst_pipe *pipe, struct sst_handle *out)
{
    const struct sst_pipe_end_shm *const end = &pipe->shm->end[pipe->end];

    *out = (struct sst_handle){
        .arena = sst_arena_id(pipe->view.arena),
        .offset = ssti_load_rlx(&end->slot),
        .generation = ssti_load_rlx(&end->generation),
        .kind = SST_KIND_PIPE,
    };
}

struct sst_pipe *
sst_pipe_close(struct sst_pipe *pipe)
{
    return free_view(pipe);
}

int
sst_pipe_socket(const struct sst_pipe *pipe)
{
    return pipe->fd;
}

int
sst_pipe_fd(struct sst_pipe *pipe)
{
    pipe->is_polled = true;
    return pipe->fd;
}

bool
sst_pipe_is_readable(const struct sst_pipe *pipe)
{
    return pipe->can_recv;
}

bool
sst_pipe_is_writable(const struct sst_pipe *pipe)
{
    return pipe->can_send;
}

uint64_t
sst_pipe_unread(const struct sst_pipe *pipe)
{
    return pipe->can_send ? ssti_ring_count(&pipe->out) : 0;
}

/* ---- For the registry's sweeper and the last drop ---- */

/* A view for the time of a call; it holds nothing and has no socket. */
static int
borrow(struct sst_pipe *pipe, struct sst_arena *arena, struct sst_pipe_shm *shm)
{
    *pipe = (struct sst_pipe){
        .view.arena = arena,
        .view.offset = ssti_load_rlx(&shm->offset),
        .fd = -1,
    };
    return bind(pipe, shm, 0);
}

static void
destroy(struct sst_arena *arena, void *object)
{
    struct sst_pipe_shm *const shm = object;
    struct ssti_ring_section section;
    struct sst_pipe pipe;

    /* An end's slot has nothing in it; a pipe that was not finished has no role yet. */
    if (ssti_load_acq(&shm->role) != SSTI_PIPE_RINGS ||
        borrow(&pipe, arena, shm) != 0) {
        return;
    }
    section = ssti_pipe_section(&pipe);
    ssti_ring_clear(&pipe.in, &section, true);
    ssti_ring_clear(&pipe.out, &section, true);
}

static bool
settle(struct sst_arena *arena, void *object)
{
    struct sst_pipe_shm *const shm = object;
    struct sst_pipe pipe;

    if (ssti_load_acq(&shm->role) != SSTI_PIPE_RINGS ||
        borrow(&pipe, arena, shm) != 0) {
        return true;
    }
    ssti_view_lock(&pipe.view);
    ssti_pipe_unlock(&pipe);
    return true;
}

const struct ssti_kind_ops *
ssti_pipe_kind(void)
{
    static struct ssti_kind_ops ops = {.destroy = destroy, .settle = settle};

    ops.layout =
        SSTI_LAYOUT_HASH(sizeof(struct sst_pipe_shm),
                         offsetof(struct sst_pipe_shm, ring),
                         offsetof(struct sst_pipe_shm, end),
                         sizeof(struct sst_pipe_end_shm), sizeof(struct sst_ring_shm),
                         sizeof(struct sst_chunk_shm), SSTI_RING_INLINE_MAX,
                         SSTI_RING_CHUNK_MAX, SSTI_PIPE_BYTES);
    return &ops;
}
