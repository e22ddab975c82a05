/* SPDX-License-Identifier: MIT */

/* Named memory and the ledger that sees names removed: what is there while the tree
 * lives, and what is left when it has ended in each way. */

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/crashpoint.h"
#include "names.h"
#include "os/os.h"
#include "peers.h"
#include "runner.h"
#include "shm/ledger.h"
#include "shm/view.h"
#include "sidestep/sidestep.h"

/* A tree of its own: a process without our arena. */
struct tree {
    void (*run)(struct sst_arena *arena);
    bool dies;
};

static void
run_tree(void *arg)
{
    const struct tree *const tree = arg;
    struct sst_arena *arena = NULL;

    check_ok(sst_arena_create(NULL, &arena, NULL));
    tree->run(arena);
    if (tree->dies) {
        kill(getpid(), SIGKILL);
    }
    sst_arena_detach(arena);
}

static void
as_tree(void (*run)(struct sst_arena *arena), bool dies)
{
    struct tree tree = {run, dies};
    const pid_t pid = test_fork(run_tree, &tree);

    if (dies) {
        test_join_killed(pid, SIGKILL);
    }
    else {
        test_join(pid);
    }
}

TEST(bytes_are_shared)
{
    own_folder();

    struct sst_arena *const arena = arena_open();
    struct sst_named *first = create(arena, "one", 10000);
    struct sst_named *second = attach(arena, "one");

    check_int(sst_named_size(first), ==, 10000);
    check_int(sst_named_size(second), ==, 10000);
    check_int(sst_named_fd(first), >=, 0);
    bytes_fill(sst_named_data(first), 10000);
    bytes_check(sst_named_data(second), 10000);
    check_ptr(sst_named_close(first), ==, NULL);
    bytes_check(sst_named_data(second), 10000);
    second = sst_named_close(second);
    second = attach(arena, "one"); /* closed everywhere, not unlinked */
    bytes_check(sst_named_data(second), 10000);
    check_ok(sst_named_unlink(arena, "one"));
    check_status(sst_named_unlink(arena, "one"), SST_ENOENT);
    check_status(sst_named_attach(arena, "one", NULL, &first, NULL), SST_ENOENT);
    bytes_check(sst_named_data(second), 10000);
    sst_named_close(second);
    arena_close(arena);
    drop_folder();
}

TEST(what_is_refused)
{
    own_folder();

    static const char *const wrong[] = {"", ".", "..", "a/b", "/a"};
    struct sst_arena *const arena = arena_open();
    struct sst_named *named = create(arena, "taken", 1);
    struct sst_named *other = NULL;
    struct sst_named_options options = {.size_of = sizeof options, .size = 1};
    char name[400];

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        check_status(sst_named_create(arena, wrong[i], &options, &other, NULL),
                     SST_EINVAL);
        check_status(sst_named_attach(arena, wrong[i], NULL, &other, NULL), SST_EINVAL);
        check_status(sst_named_unlink(arena, wrong[i]), SST_EINVAL);
        check_status(sst_named_keep(arena, wrong[i]), SST_EINVAL);
    }
    memset(name, 'x', sizeof name);
    name[255] = '\0';
    check_ok(sst_named_create(arena, name, &options, &other, NULL));
    sst_named_close(other);
    check_ok(sst_named_unlink(arena, name));
    name[255] = 'x';
    name[256] = '\0';
    check_status(sst_named_create(arena, name, &options, &other, NULL),
                 SST_ENAMETOOLONG);
    check_status(sst_named_create(arena, "taken", &options, &other, NULL), SST_EEXIST);
    options.size = 0;
    check_status(sst_named_create(arena, "new", &options, &other, NULL), SST_EINVAL);
    options.size = UINT64_C(1) << 50;
    check_status(sst_named_create(arena, "new", &options, &other, NULL), SST_ENOSPC);
    check(!name_exists("new"));
    sst_named_close(named);
    check_ok(sst_named_unlink(arena, "taken"));
    arena_close(arena);
    drop_folder();
}

TEST(a_failed_allocation_leaves_nothing)
{
    own_folder();

    struct sst_arena *const arena = arena_open();
    const struct sst_named_options options = {.size_of = sizeof options, .size = 10};
    struct sst_named *named = create(arena, "there", 10);
    struct sst_named *other = NULL;

    ssti_alloc_fail(1, 0);
    check_status(sst_named_create(arena, "new", &options, &other, NULL), SST_ENOMEM);
    ssti_alloc_fail(1, 0);
    check_status(sst_named_attach(arena, "there", NULL, &other, NULL), SST_ENOMEM);
    ssti_alloc_fail(1, 0);
    check_status(sst_named_resize(named, 20, NULL), SST_ENOMEM);
    check(!name_exists("new"));
    sst_named_close(named);
    check_ok(sst_named_unlink(arena, "there"));
    arena_close(arena);
    drop_folder();
}

TEST(it_grows)
{
    own_folder();

    struct sst_arena *const arena = arena_open();
    struct sst_named *first = create(arena, "one", 5000);
    struct sst_named *second = attach(arena, "one");
    char *const before = sst_named_data(first);

    before[4999] = 'x';
    check_status(sst_named_resize(first, 4999, NULL), SST_EINVAL);
    check_ok(sst_named_resize(first, 5000, NULL));
    check_ptr(sst_named_data(first), ==, before);
    check_ok(sst_named_resize(first, 100000, NULL));
    check_int(sst_named_size(first), ==, 100000);
    check_int(((char *)sst_named_data(first))[4999], ==, 'x');
    before[0] = 'y'; /* what somebody still looks at */
    check_int(((char *)sst_named_data(first))[0], ==, 'y');
    ((char *)sst_named_data(first))[99999] = 'z';
    check_int(sst_named_size(second), ==, 5000);
    check_ok(sst_named_resize(second, 0, NULL));
    check_int(sst_named_size(second), ==, 100000);
    check_int(((char *)sst_named_data(second))[99999], ==, 'z');
    check_status(sst_named_resize(second, UINT64_C(1) << 50, NULL), SST_ENOSPC);
    sst_named_close(first);
    sst_named_close(second);
    check_ok(sst_named_unlink(arena, "one"));
    arena_close(arena);
    drop_folder();
}

static void
make_two(struct sst_arena *arena)
{
    (void)sst_named_close(create(arena, "closed", 10));
    struct sst_named *named = create(arena, "mapped", 10);

    if (getenv("LEAVE_OPEN") == NULL) {
        sst_named_close(named);
    }
}

TEST(the_last_one_removes_what_is_left)
{
    own_folder();
    as_tree(make_two, false);
    check(!name_exists("closed"));
    check(!name_exists("mapped"));
    drop_folder();
}

TEST(the_next_process_removes_what_the_killed_left)
{
    own_folder();
    setenv("LEAVE_OPEN", "1", 1);
    as_tree(make_two, true);
    check(name_exists("closed"));
    check(name_exists("mapped"));

    struct sst_arena *const arena = arena_open();

    check(!name_exists("closed"));
    check(!name_exists("mapped"));
    arena_close(arena);
    drop_folder();
}

TEST(what_was_left_cannot_be_attached)
{
    own_folder();

    struct sst_arena *const arena = arena_open();
    const struct sst_named_options untracked = {.size_of = sizeof untracked,
                                                .untracked = true};
    struct sst_named *named = NULL;

    setenv("LEAVE_OPEN", "1", 1);
    as_tree(make_two, true);
    check_status(sst_named_attach(arena, "mapped", &untracked, &named, NULL),
                 SST_ENOENT);
    check_status(sst_named_attach(arena, "closed", NULL, &named, NULL), SST_ENOENT);
    arena_close(arena);
    drop_folder();
}

static void
make_untracked(struct sst_arena *arena)
{
    const struct sst_named_options options = {.size_of = sizeof options,
                                              .size = 10,
                                              .untracked = true};
    struct sst_named *named = NULL;

    check_ok(sst_named_create(arena, "stays", &options, &named, NULL));
    sst_named_close(named);
}

static void
make_and_forget(struct sst_arena *arena)
{
    sst_named_close(create(arena, "forgotten", 10));
    sst_named_forget(arena, "forgotten");
    sst_named_close(create(arena, "kept", 10));
    sst_named_forget(arena, "kept");
    check_ok(sst_named_keep(arena, "kept"));
    check_ok(sst_named_keep(arena, "kept"));
    check_ok(sst_named_keep(arena, "never there"));
}

TEST(untracked_and_forgotten_names_stay)
{
    own_folder();
    as_tree(make_untracked, false);
    as_tree(make_and_forget, false);

    struct sst_arena *const arena = arena_open();

    check(!name_exists("kept"));
    check_ok(sst_named_unlink(arena, "stays"));
    check_ok(sst_named_unlink(arena, "forgotten"));
    arena_close(arena);
    drop_folder();
}

/* A file that somebody else has made, as shm_open would. */
static void
make_foreign(const char *name)
{
    char path[400];

    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    close(open(path, O_RDWR | O_CREAT | O_EXCL, 0600));
    check_int(truncate(path, 100), ==, 0);
}

static void
keep_foreign(struct sst_arena *arena)
{
    make_foreign("foreign");
    check_ok(sst_named_keep(arena, "foreign"));
}

static void
use_foreign(struct sst_arena *arena)
{
    sst_named_close(attach(arena, "foreign"));
    sst_named_forget(arena, "foreign");
    (void)attach(arena, "foreign");
}

TEST(foreign_names_stay_unless_kept)
{
    own_folder();
    as_tree(keep_foreign, false);
    check(!name_exists("foreign"));
    as_tree(keep_foreign, true);
    check(name_exists("foreign"));
    ssti_ledger_collect();
    check(!name_exists("foreign"));

    make_foreign("foreign");
    as_tree(use_foreign, true);
    ssti_ledger_collect();
    check(name_exists("foreign"));
    check_ok(ssti_os_name_remove("foreign"));
    drop_folder();
}

static void
make_and_replace(struct sst_arena *arena)
{
    sst_named_close(create(arena, "name", 10));
    check_ok(ssti_os_name_remove("name"));
    make_foreign("name");
}

TEST(a_name_that_stands_for_something_else_now_stays)
{
    own_folder();
    as_tree(make_and_replace, false);
    check(name_exists("name"));
    check_ok(ssti_os_name_remove("name"));
    drop_folder();
}

/* ---- Several trees ---- */

static void
read_one(struct sst_arena *arena)
{
    bytes_check(sst_named_data(attach(arena, "one")), 100);
}

TEST(a_reader_of_another_tree_destroys_nothing)
{
    own_folder();

    struct sst_arena *const arena = arena_open();
    struct sst_named *named = create(arena, "one", 100);

    bytes_fill(sst_named_data(named), 100);
    named = sst_named_close(named);
    as_tree(read_one, true);
    as_tree(read_one, true);
    named = attach(arena, "one");
    bytes_check(sst_named_data(named), 100);
    sst_named_close(named);
    arena_close(arena);
    drop_folder();
}

static void
make_and_wait(struct sst_arena *arena)
{
    bytes_fill(sst_named_data(create(arena, "one", 100)), 100);
    word_set(0, 1);
    linger();
}

TEST(a_reader_of_another_tree_keeps_it)
{
    own_folder();

    struct sst_arena *arena = arena_open();
    struct tree tree = {make_and_wait, false};
    const pid_t pid = test_fork(run_tree, &tree);
    struct sst_named *named;

    eventually(word(0) == 1);
    named = attach(arena, "one");
    test_kill(pid);
    ssti_ledger_collect();
    sst_named_close(attach(arena, "one"));
    bytes_check(sst_named_data(named), 100);
    sst_named_close(named);
    check(name_exists("one"));
    arena_close(arena); /* it has used names, so it looks */
    drop_folder();
}

/* ---- Children ---- */

enum {
    BEFORE, /* the child is forked before there is a ledger */
    AFTER,
    CLOSES_ALL, /* after it, and closes every descriptor, as daemons do */
};

struct family {
    int when;
    bool dies;
};

static void
have_family(void *arg)
{
    const struct family *const family = arg;
    struct sst_arena *arena = NULL;
    struct sst_named *named = NULL;
    pid_t pid;

    check_ok(sst_arena_create(NULL, &arena, NULL));
    if (family->when != BEFORE) {
        named = create(arena, "one", 100);
    }
    pid = fork();
    check_int(pid, >=, 0);
    if (pid == 0) {
        if (family->when == CLOSES_ALL) {
            ssti_os_close_all_but(-1);
        }
        word_set(0, getpid());
        linger();
    }
    eventually(word(0) != 0);
    if (family->when == BEFORE) {
        named = create(arena, "one", 100);
    }
    if (family->dies) {
        kill(getpid(), SIGKILL);
    }
    sst_named_close(named);
    sst_arena_detach(arena);
}

TEST(a_name_lives_as_long_as_a_child)
{
    check_int(prctl(PR_SET_CHILD_SUBREAPER, 1), ==, 0);
    for (int way = 0; way < 6; way++) {
        own_folder();

        struct sst_arena *const arena = arena_open();
        struct family family = {way % 3, way >= 3};
        const pid_t pid = test_fork(have_family, &family);

        if (family.dies) {
            test_join_killed(pid, SIGKILL);
        }
        else {
            test_join(pid);
        }
        ssti_ledger_collect();
        check(name_exists("one"));
        sst_named_close(attach(arena, "one"));
        kill((pid_t)word(0), SIGKILL);
        check_int(waitpid((pid_t)word(0), NULL, 0), ==, word(0));
        ssti_ledger_collect();
        check(!name_exists("one"));
        arena_close(arena);
        drop_folder();
    }
}

static void
exit_with_open_views(void *arg)
{
    struct sst_arena *const arena = arg;

    (void)create(arena, "of a child", 100);
    sst_process_exit(arena, 0);
}

TEST(an_exit_in_order_gives_up_what_is_open)
{
    own_folder();

    struct sst_arena *const arena = arena_open();
    struct sst_named *named = create(arena, "of the parent", 100);

    test_join(test_fork(exit_with_open_views, arena));
    check(name_exists("of a child"));
    sst_named_close(named);
    arena_close(arena);
    drop_folder();
}

static void
leave_with_open_views(struct sst_arena *arena)
{
    (void)create(arena, "open", 100);
    sst_named_leave(arena);
    check(!name_exists("open"));
    sst_named_leave(arena);
    kill(getpid(), SIGKILL);
}

TEST(a_process_that_leaves_need_not_close)
{
    own_folder();
    as_tree(leave_with_open_views, true);
    drop_folder();
}

/* ---- Where there is no place ---- */

TEST(without_a_folder_for_all_there_is_one_of_ours)
{
    char path[128];

    ssti_os_names_pretend("/nowhere at all");

    struct sst_arena *const arena = arena_open();
    struct sst_named *named = create(arena, "test of names", 100);
    struct sst_named *again = attach(arena, "test of names");

    bytes_fill(sst_named_data(named), 100);
    bytes_check(sst_named_data(again), 100);
    sst_named_close(again);
    sst_named_close(named);
    arena_close(arena);
    check(!name_exists("test of names"));
    ssti_os_names_pretend(NULL);
    (void)snprintf(path, sizeof path, "/tmp/sidestep-%u/names", (unsigned)geteuid());
    check_int(access(path, R_OK), ==, 0);
}

TEST(a_folder_of_somebody_else_is_refused)
{
    char path[128];
    const struct sst_named_options options = {.size_of = sizeof options, .size = 10};
    struct sst_named *named = NULL;

    own_folder();

    struct sst_arena *const arena = arena_open();

    (void)snprintf(path, sizeof path, "%s/sidestep-%u", folder, (unsigned)geteuid());
    check_int(mkdir(path, 0700), ==, 0);
    check_int(chmod(path, 0777), ==, 0);
    check_status(sst_named_create(arena, "one", &options, &named, NULL), SST_EPERM);
    check(!name_exists("one"));
    check_int(rmdir(path), ==, 0);
    arena_close(arena);
    drop_folder();
}

TEST(a_link_in_place_of_the_folder_is_not_followed)
{
    char path[128];
    char other[128];

    own_folder();
    (void)snprintf(path, sizeof path, "%s/sidestep-%u", folder, (unsigned)geteuid());
    (void)snprintf(other, sizeof other, "%s-other", folder);
    check_int(mkdir(other, 0700), ==, 0);
    check_int(symlink(other, path), ==, 0);
    (void)strncat(other, "/0123456789abcdef", sizeof other - strlen(other) - 1);
    close(open(other, O_CREAT | O_RDWR, 0600)); /* as a ledger that was not begun */
    ssti_ledger_collect();
    check_int(unlink(other), ==, 0);
    other[strlen(folder) + 6] = '\0';
    check_int(rmdir(other), ==, 0);
    check_int(unlink(path), ==, 0);
    drop_folder();
}

static void
make_too_large(void *arg)
{
    const struct rlimit limit = {100000, 100000};
    const struct sst_named_options options = {.size_of = sizeof options,
                                              .size = 200000};
    struct sst_named *named = NULL;
    struct sst_arena *const arena = arg;

    check_int(setrlimit(RLIMIT_FSIZE, &limit), ==, 0);
    check_status(sst_named_create(arena, "one", &options, &named, NULL), SST_ENOSPC);
    check(!name_exists("one"));
}

TEST(a_limit_on_files_is_no_signal)
{
    own_folder();

    struct sst_arena *const arena = arena_open();

    test_join(test_fork(make_too_large, arena));
    arena_close(arena);
    drop_folder();
}
