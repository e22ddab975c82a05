/* SPDX-License-Identifier: MIT */

/* Killing a process and everything below it.
 *
 * Whoever kills from the top down loses sight of what is below: the children of the
 * dead are somebody else's. Whoever kills while the tree grows misses what is new. So
 * each process is stopped before its children are read: it makes no more of them, and
 * those it has keep their pids, as zombies at worst, because nobody but their stopped
 * parent could reap them. Then all are killed, from the leaves to the root.
 *
 * A process does not stop at once where it is inside of a system call, and may make one
 * more child there: the lists are read again until nothing new is in them. The kernel
 * lets no process that is about to stop finish a fork that begins later. */

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/status.h"
#include "os/os.h"

enum {
    TEXT_SIZE = 1 << 16, /* of one list of children: some nine thousand */
    PATH_SIZE = 64,
    STAT_SIZE = 512,
    LOOKS = 100, /* at a process that was told to stop, */
    LOOK_NS = 200000,
};

struct tree {
    int *pids; /* parents before their children */
    uint32_t count;
    uint32_t room;
    int pidfd; /* of the first */
    char *text;
};

static int
add(struct tree *tree, int pid)
{
    for (uint32_t i = 0; i < tree->count; i++) {
        if (tree->pids[i] == pid) {
            return 0;
        }
    }
    if (tree->count == tree->room) {
        const uint32_t room = tree->room != 0 ? 2 * tree->room : 16;
        int *const pids = ssti_realloc(tree->pids, room * sizeof(*pids));

        if (pids == NULL) {
            return SST_ENOMEM;
        }
        tree->pids = pids;
        tree->room = room;
    }
    tree->pids[tree->count++] = pid;
    return 0;
}

/* Call for every thread of a process; stops at the first that does not give 0. */
static int
each_thread(struct tree *tree, int pid,
            int (*look)(struct tree *tree, int pid, const char *thread))
{
    char path[PATH_SIZE];
    struct dirent *entry;
    DIR *threads;
    int rc = 0;

    (void)snprintf(path, sizeof(path), "/proc/%d/task", pid); /* fits */
    threads = opendir(path);
    if (threads == NULL) {
        return errno == ENOENT ? 0 : -errno; /* it is gone */
    }
    while (rc == 0 && (entry = readdir(threads)) != NULL) {
        if (entry->d_name[0] != '.') {
            rc = look(tree, pid, entry->d_name);
        }
    }
    (void)closedir(threads); /* was only read */
    return rc;
}

static int
add_children_of_thread(struct tree *tree, int pid, const char *thread)
{
    char path[PATH_SIZE + sizeof(((struct dirent *)0)->d_name)];
    char *end = tree->text;
    int rc = 0;

    (void)snprintf(path, sizeof(path), "/proc/%d/task/%s/children", pid, thread);
    if (ssti_os_read_text(path, tree->text, TEXT_SIZE) <= 0) {
        return 0; /* it is gone, or a kernel that does not tell */
    }
    for (const char *at = end; rc == 0; at = end) {
        const long child = strtol(at, &end, 10);

        if (end == at) {
            break;
        }
        rc = add(tree, (int)child);
    }
    return rc;
}

/* 1 when the thread runs: neither stopped nor dead. */
static int
thread_runs(struct tree *tree, int pid, const char *thread)
{
    char path[PATH_SIZE + sizeof(((struct dirent *)0)->d_name)];
    const char *state = NULL;

    (void)snprintf(path, sizeof(path), "/proc/%d/task/%s/stat", pid, thread);
    if (ssti_os_read_text(path, tree->text, STAT_SIZE) <= 0) {
        return 0;
    }
    /* Behind the name, which may have anything in it. */
    for (const char *at = tree->text; *at != '\0'; at++) {
        state = *at == ')' ? at + 2 : state;
    }
    return state != NULL && *state != 'T' && *state != 't' && *state != 'Z' &&
           *state != 'X';
}

static void
wait_until_stopped(struct tree *tree, int pid)
{
    const struct timespec nap = {.tv_nsec = LOOK_NS};

    for (int i = 0; i < LOOKS && each_thread(tree, pid, thread_runs) == 1; i++) {
        (void)nanosleep(&nap, NULL);
    }
}

/* The first one by its descriptor: another thread may join it meanwhile. */
static int
send(const struct tree *tree, uint32_t index, int number)
{
    if (index == 0) {
        return ssti_os_signal(tree->pidfd, number);
    }
    return kill(tree->pids[index], number) != 0 ? -errno : 0;
}

/* Those that are in the list from the one at `from` on, and what they lead to. */
static int
gather(struct tree *tree, uint32_t from)
{
    int rc = 0;

    for (uint32_t i = from; rc >= 0 && i < tree->count; i++) {
        if (send(tree, i, SIGSTOP) == 0) {
            wait_until_stopped(tree, tree->pids[i]);
        }
        rc = each_thread(tree, tree->pids[i], add_children_of_thread);
    }
    return rc;
}

static int
gather_all(struct tree *tree)
{
    uint32_t known = 0;
    int rc = gather(tree, 0);

    while (rc >= 0 && known != tree->count) {
        known = tree->count;
        for (uint32_t i = 0; rc >= 0 && i < known; i++) {
            rc = each_thread(tree, tree->pids[i], add_children_of_thread);
        }
        if (rc >= 0) {
            rc = gather(tree, known);
        }
    }
    return rc;
}

int
ssti_os_kill_tree(int pid, int pidfd)
{
    struct tree tree = {.text = ssti_alloc(TEXT_SIZE), .pidfd = pidfd};
    int count = 0;
    int killed = 0;
    int rc = tree.text != NULL ? add(&tree, pid) : SST_ENOMEM;

    if (rc >= 0) {
        rc = gather_all(&tree);
    }
    /* What was found is stopped, and must not stay so, whatever went wrong. */
    for (uint32_t i = tree.count; i > 0; i--) {
        killed = send(&tree, i - 1, SIGKILL);
        count += killed == 0;
    }
    if (rc >= 0 && killed == SST_EPERM) {
        rc = killed; /* of the first one: it is not what we are any more */
    }
    (void)ssti_free(tree.pids);
    (void)ssti_free(tree.text);
    return rc < 0 ? rc : count;
}
