/* SPDX-License-Identifier: MIT */

/* Private folders: who can enter them, and that they go with their tree of processes,
 * and nothing else goes with them. */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "names.h"
#include "peers.h"
#include "runner.h"
#include "shm/ledger.h"
#include "sidestep/sidestep.h"

/* Where the tests make them: shared with children, as arena_open() shares words. */
static char parent[64];
static char *path; /* of PATH_SIZE bytes that children write to */

enum {
    PATH_SIZE = 256,
};

static struct sst_arena *
begin(void)
{
    own_folder();
    (void)snprintf(parent, sizeof parent, "/tmp/folders-of-test-%d", (int)getpid());
    check_int(mkdir(parent, 0777), ==, 0);
    path = mmap(NULL, PATH_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                0);
    check_ptr(path, !=, MAP_FAILED);
    return arena_open();
}

/* Nothing may be left. */
static void
end(struct sst_arena *arena)
{
    (void)munmap(path, PATH_SIZE);
    check_int(rmdir(parent), ==, 0);
    arena_close(arena);
    drop_folder();
}

static bool
is_there(const char *what)
{
    struct stat status;

    return lstat(what, &status) == 0;
}

static void
write_file(const char *where, const char *name)
{
    char file[400];

    (void)snprintf(file, sizeof file, "%s/%s", where, name);
    close(open(file, O_WRONLY | O_CREAT | O_EXCL, 0600));
    check(is_there(file));
}

/* ---- In one process ---- */

TEST(made_for_this_user_alone)
{
    struct sst_arena *const arena = begin();
    char other[PATH_SIZE];
    struct stat status;

    check_ok(sst_folder_make(arena, parent, "test-", path, PATH_SIZE));
    check_ok(sst_folder_make(arena, parent, "test-", other, sizeof other));
    check(strcmp(path, other) != 0);
    check(strncmp(path, parent, strlen(parent)) == 0);
    check_int(lstat(path, &status), ==, 0);
    check_int(status.st_mode, ==, S_IFDIR | 0700);
    check_ok(sst_folder_remove(arena, path));
    check_ok(sst_folder_remove(arena, other));
    check_status(sst_folder_remove(arena, other), SST_ENOENT);
    end(arena);
}

TEST(what_cannot_be_made)
{
    struct sst_arena *const arena = begin();
    char small[20];

    check_status(sst_folder_make(arena, "here", "x", path, PATH_SIZE), SST_EINVAL);
    check_status(sst_folder_make(arena, parent, "x/y", path, PATH_SIZE), SST_EINVAL);
    check_status(sst_folder_make(arena, "/no/where", "x", path, PATH_SIZE), SST_ENOENT);
    check_status(sst_folder_make(arena, "/dev/null", "x", path, PATH_SIZE), SST_EIO);
    check_status(sst_folder_make(arena, parent, "x", small, sizeof small),
                 SST_ENAMETOOLONG);
    end(arena);
}

TEST(removed_with_all_in_it_and_nothing_else)
{
    struct sst_arena *const arena = begin();
    char outside[128];
    char file[400];
    char inner[300];

    (void)snprintf(outside, sizeof outside, "%s/outside", parent);
    check_int(mkdir(outside, 0700), ==, 0);
    write_file(outside, "precious");
    check_ok(sst_folder_make(arena, parent, "test-", path, PATH_SIZE));
    (void)snprintf(inner, sizeof inner, "%s/a", path);
    check_int(mkdir(inner, 0700), ==, 0);
    write_file(path, "file");
    write_file(inner, "file");
    (void)snprintf(file, sizeof file, "%s/link", inner);
    check_int(symlink(outside, file), ==, 0);
    check_ok(sst_folder_remove(arena, path));
    check(!is_there(path));

    (void)snprintf(file, sizeof file, "%s/precious", outside);
    check_int(unlink(file), ==, 0);
    check_int(rmdir(outside), ==, 0);
    end(arena);
}

TEST(only_folders_of_ours_are_removed)
{
    struct sst_arena *const arena = begin();
    char link[128];

    check_ok(sst_folder_make(arena, parent, "test-", path, PATH_SIZE));
    (void)snprintf(link, sizeof link, "%s/link", parent);
    check_int(symlink(path, link), ==, 0);
    check_status(sst_folder_remove(arena, link), SST_EPERM);
    check_int(unlink(link), ==, 0);
    check(is_there(path));
    if (geteuid() == 0) { /* or nobody could give it to another */
        check_int(chown(path, 12345, 12345), ==, 0);
        check_status(sst_folder_remove(arena, path), SST_EPERM);
        check(is_there(path));
        check_int(chown(path, 0, 0), ==, 0);
    }
    check_ok(sst_folder_remove(arena, path));
    end(arena);
}

/* ---- With the tree ---- */

struct family {
    bool has_child;
    bool closes_all; /* the child closes every descriptor, as daemons do */
    bool dies;
};

static void
have_family(void *arg)
{
    const struct family *const family = arg;
    struct sst_arena *arena = NULL;
    pid_t pid;

    check_ok(sst_arena_create(NULL, &arena, NULL));
    check_ok(sst_folder_make(arena, parent, "test-", path, PATH_SIZE));
    write_file(path, "socket");
    if (family->has_child) {
        pid = fork();
        check_int(pid, >=, 0);
        if (pid == 0) {
            if (family->closes_all) {
                ssti_os_close_all_but(-1);
            }
            word_set(0, getpid());
            linger();
        }
        eventually(word(0) != 0);
    }
    if (family->dies) {
        kill(getpid(), SIGKILL);
    }
    sst_arena_detach(arena);
}

static void
run(struct family family)
{
    const pid_t pid = test_fork(have_family, &family);

    if (family.dies) {
        test_join_killed(pid, SIGKILL);
    }
    else {
        test_join(pid);
    }
}

TEST(goes_with_the_last_process)
{
    struct sst_arena *const arena = begin();

    run((struct family){.dies = false});
    check(path[0] == '/');
    check(!is_there(path));
    end(arena);
}

TEST(the_next_process_removes_what_the_killed_left)
{
    struct sst_arena *const arena = begin();
    struct sst_arena *other = NULL;

    run((struct family){.dies = true});
    check(is_there(path));
    check_ok(sst_arena_create(NULL, &other, NULL));
    check(!is_there(path));
    sst_arena_detach(other);
    end(arena);
}

TEST(lives_as_long_as_a_child)
{
    struct sst_arena *const arena = begin();

    check_int(prctl(PR_SET_CHILD_SUBREAPER, 1), ==, 0);
    for (int way = 0; way < 4; way++) {
        word_set(0, 0);
        run((struct family){.has_child = true,
                            .closes_all = way % 2 != 0,
                            .dies = way >= 2});
        ssti_ledger_collect();
        check(is_there(path));
        kill((pid_t)word(0), SIGKILL);
        check_int(waitpid((pid_t)word(0), NULL, 0), ==, word(0));
        ssti_ledger_collect();
        check(!is_there(path));
    }
    end(arena);
}

/* Who looks has no descriptor for it: the next one removes it. */
static void
look_without_descriptors(void *arg)
{
    struct rlimit limit;
    const int next = dup(0);

    (void)arg;
    check_int(getrlimit(RLIMIT_NOFILE, &limit), ==, 0);
    (void)close(next);
    for (rlim_t room = 0; room < 6; room++) {
        limit.rlim_cur = (rlim_t)next + room;
        check_int(setrlimit(RLIMIT_NOFILE, &limit), ==, 0);
        ssti_ledger_collect();
    }
}

TEST(stays_noted_until_it_is_gone)
{
    struct sst_arena *const arena = begin();

    run((struct family){.dies = true});
    test_join(test_fork(look_without_descriptors, NULL));
    ssti_ledger_collect();
    check(!is_there(path));
    end(arena);
}

/* ---- Somebody has put something in its place ---- */

static void
replace(int way)
{
    char file[400];
    char other[128];

    (void)snprintf(other, sizeof other, "%s/other", parent);
    check_int(mkdir(other, 0700), ==, 0);
    write_file(other, "precious");
    (void)snprintf(file, sizeof file, "%s/socket", path);
    check_int(unlink(file), ==, 0);
    check_int(rmdir(path), ==, 0);
    if (way == 0) {
        check_int(symlink(other, path), ==, 0);
    }
    else {
        check_int(rename(other, path), ==, 0);
    }
}

TEST(what_is_in_its_place_stays)
{
    struct sst_arena *const arena = begin();

    for (int way = 0; way < 2; way++) {
        char file[400];

        run((struct family){.dies = true});
        replace(way);
        ssti_ledger_collect();
        (void)snprintf(file, sizeof file, "%s/precious", path);
        check(is_there(file));
        check_int(unlink(file), ==, 0);
        if (way == 0) {
            check_int(unlink(path), ==, 0);
            (void)snprintf(path, PATH_SIZE, "%s/other", parent);
        }
        check_int(rmdir(path), ==, 0);
    }
    end(arena);
}

TEST(without_room_for_notes_it_is_made_all_the_same)
{
    struct sst_arena *const arena = begin();
    char notes[128];

    if (geteuid() != 0) {
        test_skip("only root can make what belongs to others");
    }
    (void)snprintf(notes, sizeof notes, "%s/sidestep-0", folder);
    check_int(mkdir(notes, 0777), ==, 0);
    check_int(chown(notes, 12345, 12345), ==, 0);
    check_ok(sst_folder_make(arena, parent, "test-", path, PATH_SIZE));
    check_ok(sst_folder_remove(arena, path));
    check_int(rmdir(notes), ==, 0);
    end(arena);
}
