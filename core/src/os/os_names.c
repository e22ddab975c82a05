/* SPDX-License-Identifier: MIT */

/* Memory that has a name, and notes about it.
 *
 * Names are those of shm_open: files in /dev/shm, so that everybody on the machine who
 * knows a name finds the same memory, whatever made it. Where there is no such folder,
 * or we may not write to it, a folder of this user's in /tmp takes its place; then only
 * processes of this library and this user find each other.
 *
 * A file is made without a name, filled, and then named in one step: nobody sees half
 * of one, and a process that dies before leaves nothing. Where the file system cannot
 * do that the file has its name from the start.
 *
 * Notes are small files in a folder that only this user can write to. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/status.h"
#include "os/os.h"
#include "sidestep/sidestep.h"

enum {
    PATH_SIZE = 512,
    FOLDER_MODE = 0700,
    OTHERS_MAY_WRITE = 022,
    TRIES = 100, /* when somebody removes the folder whenever we have made it */
};

enum place {
    PLACE_UNKNOWN,
    PLACE_SHARED, /* the folder for everybody */
    PLACE_SPARE,
};

static const char *pretended;  /* by a test */
static _Atomic uint32_t place; /* enum place; whoever looks first finds the same */

void
ssti_os_names_pretend(const char *folder)
{
    pretended = folder;
    ssti_store_rlx(&place, PLACE_UNKNOWN);
}

/* ---- Where ---- */

static bool
is_usable(const char *folder)
{
    return faccessat(AT_FDCWD, folder, W_OK | X_OK, AT_EACCESS) == 0;
}

static const char *
shared_folder(void)
{
    const char *const folder = pretended != NULL ? pretended : "/dev/shm";
    uint32_t found = ssti_load_rlx(&place);

    if (found == PLACE_UNKNOWN) {
        found = is_usable(folder) ? PLACE_SHARED : PLACE_SPARE;
        ssti_store_rlx(&place, found);
    }
    return found == PLACE_SHARED ? folder : NULL;
}

/* The folder of this user's. */
static void
own_folder(char *path)
{
    const char *const shared = shared_folder();
    const char *const parent = shared != NULL      ? shared
                               : is_usable("/tmp") ? "/tmp"
                                                   : "/var/tmp";

    (void)snprintf(path, PATH_SIZE, "%s/sidestep-%u", parent,
                   (unsigned)geteuid()); /* fits */
}

static void
path_of_name(char *path, const char *name)
{
    const char *const shared = shared_folder();

    if (shared != NULL) {
        (void)snprintf(path, PATH_SIZE, "%s/%s", shared, name); /* fits */
        return;
    }
    own_folder(path);
    const size_t used = strlen(path);

    (void)snprintf(path + used, PATH_SIZE - used, "/names/%s", name);
}

/* Nobody else has put his there, or a link to somewhere; once it is ours nobody can:
 * the folder around it is sticky. */
static int
check_folder(const char *path)
{
    struct stat status;

    if (lstat(path, &status) != 0) {
        return ssti_status_of_errno(errno);
    }
    if (!S_ISDIR(status.st_mode) || status.st_uid != geteuid() ||
        (status.st_mode & OTHERS_MAY_WRITE) != 0) {
        return SST_EPERM;
    }
    return 0;
}

static int
make_folder(const char *path)
{
    if (mkdir(path, FOLDER_MODE) != 0 && errno != EEXIST) {
        return ssti_status_of_errno(errno);
    }
    return check_folder(path);
}

/* Where there is no folder for everybody, names need one of ours. */
static int
make_place(void)
{
    char path[PATH_SIZE];
    int rc;

    if (shared_folder() != NULL) {
        return 0;
    }
    own_folder(path);
    rc = make_folder(path);
    if (rc == 0) {
        path_of_name(path, "");
        rc = make_folder(path);
    }
    return rc;
}

/* ---- Names ---- */

int
ssti_os_name_check(const char *name)
{
    if (name[0] == '\0' || strchr(name, '/') != NULL || strcmp(name, ".") == 0 ||
        strcmp(name, "..") == 0) {
        return SST_EINVAL;
    }
    return strlen(name) <= SSTI_OS_NAME_MAX ? 0 : SST_ENAMETOOLONG;
}

static int
open_named(const char *name, uint32_t mode)
{
    char path[PATH_SIZE];
    int fd;

    path_of_name(path, name);
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, (mode_t)mode);
    return fd >= 0 ? fd : ssti_status_of_errno(errno);
}

int
ssti_os_name_make(const char *name, uint32_t mode, bool *is_named)
{
    char path[PATH_SIZE];
    int fd = make_place();

    if (fd != 0) {
        return fd;
    }
    path_of_name(path, "");
    *is_named = false;
    fd = open(path, O_RDWR | O_TMPFILE | O_CLOEXEC, (mode_t)mode);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT)) {
        *is_named = true;
        return open_named(name, mode);
    }
    return fd >= 0 ? fd : ssti_status_of_errno(errno);
}

int
ssti_os_name_give(int fd, const char *name)
{
    char from[PATH_SIZE];
    char path[PATH_SIZE];

    (void)snprintf(from, sizeof from, "/proc/self/fd/%d", fd); /* fits */
    path_of_name(path, name);
    if (linkat(AT_FDCWD, from, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0) {
        return 0;
    }
    if (errno == ENOENT && linkat(fd, "", AT_FDCWD, path, AT_EMPTY_PATH) == 0) {
        return 0; /* without /proc; not everybody may */
    }
    return ssti_status_of_errno(errno);
}

int
ssti_os_name_open(const char *name)
{
    char path[PATH_SIZE];
    int fd;

    path_of_name(path, name);
    fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    return fd >= 0 ? fd : ssti_status_of_errno(errno);
}

int
ssti_os_name_look(const char *name, struct ssti_os_file *out)
{
    char path[PATH_SIZE];
    struct stat status;

    path_of_name(path, name);
    if (lstat(path, &status) != 0) {
        return ssti_status_of_errno(errno);
    }
    out->device = status.st_dev;
    out->number = status.st_ino;
    return 0;
}

int
ssti_os_name_remove(const char *name)
{
    char path[PATH_SIZE];

    path_of_name(path, name);
    return unlink(path) == 0 ? 0 : ssti_status_of_errno(errno);
}

/* ---- Notes ---- */

static int
open_note(const char *path, bool make)
{
    struct stat status;
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | (make ? O_CREAT : 0), 0600);

    if (fd < 0) {
        return ssti_status_of_errno(errno);
    }
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) ||
        status.st_uid != geteuid()) {
        ssti_os_close(fd);
        return SST_EPERM;
    }
    if (fd <= STDERR_FILENO) { /* not in the place of a stream that is closed */
        const int copy = ssti_os_fd_duplicate(fd);

        ssti_os_close(fd);
        return copy;
    }
    return fd;
}

int
ssti_os_note_open(const char *name, bool make)
{
    char path[PATH_SIZE];
    char folder[PATH_SIZE];
    int rc = SST_ENOENT;

    own_folder(folder);
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) {
        return SST_ENAMETOOLONG;
    }
    for (int i = 0; i < TRIES && rc == SST_ENOENT; i++) {
        rc = make ? make_folder(folder) : check_folder(folder);
        if (rc == 0) {
            rc = open_note(path, make);
        }
        if (!make) {
            break;
        }
    }
    return rc;
}

void
ssti_os_note_remove(const char *name)
{
    char path[PATH_SIZE];
    char folder[PATH_SIZE];

    own_folder(folder);
    if (check_folder(folder) == 0 &&
        snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path) {
        (void)unlink(path);  /* somebody else was faster */
        (void)rmdir(folder); /* if it is empty now */
    }
}

void
ssti_os_notes_each(void (*tell)(const char *name, void *context), void *context)
{
    char folder[PATH_SIZE];
    DIR *list;

    own_folder(folder);
    list = check_folder(folder) == 0 ? opendir(folder) : NULL;
    if (list == NULL) {
        return; /* there are none */
    }
    for (const struct dirent *entry; (entry = readdir(list)) != NULL;) {
        if (entry->d_name[0] != '.' && strcmp(entry->d_name, "names") != 0) {
            tell(entry->d_name, context);
        }
    }
    (void)closedir(list);
}

/* ---- Files ---- */

int
ssti_os_file_grow(int fd, uint64_t size)
{
    struct rlimit limit;
    int rc;

    /* Beyond a limit on the size of files there is a signal, which kills. */
    if (size > INT64_MAX ||
        (getrlimit(RLIMIT_FSIZE, &limit) == 0 && size > limit.rlim_cur)) {
        return SST_ENOSPC;
    }
    do {
        rc = posix_fallocate(fd, 0, (off_t)size);
    } while (rc == EINTR);
    return rc == 0 ? 0 : ssti_status_of_errno(rc == EFBIG ? ENOSPC : rc);
}

int
ssti_os_file_size(int fd, uint64_t *size, bool *has_name)
{
    struct stat status;

    if (fstat(fd, &status) != 0) {
        return ssti_status_of_errno(errno);
    }
    if (!S_ISREG(status.st_mode) || status.st_size < 0) {
        return SST_EINVAL;
    }
    *size = (uint64_t)status.st_size;
    *has_name = status.st_nlink > 0;
    return 0;
}

int
ssti_os_file_lock(int fd, enum ssti_os_lock lock, bool wait)
{
    const int how = lock == SSTI_OS_LOCK_SHARED  ? LOCK_SH
                    : lock == SSTI_OS_LOCK_ALONE ? LOCK_EX
                                                 : LOCK_UN;
    int rc;

    do {
        rc = flock(fd, how | (wait ? 0 : LOCK_NB));
    } while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : ssti_status_of_errno(errno);
}

int
ssti_os_file_guard(int fd, bool on, bool wait)
{
    struct flock range = {.l_type = on ? F_WRLCK : F_UNLCK, .l_whence = SEEK_SET};
    int rc;

    do {
        rc = fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &range);
    } while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : ssti_status_of_errno(errno);
}

int64_t
ssti_os_file_read(int fd, uint64_t offset, void *out, uint64_t size)
{
    ssize_t rc;

    do {
        rc = pread(fd, out, size, (off_t)offset);
    } while (rc < 0 && errno == EINTR);
    return rc >= 0 ? rc : ssti_status_of_errno(errno);
}

int
ssti_os_file_write(int fd, uint64_t offset, const void *data, uint64_t size)
{
    ssize_t rc;

    do {
        rc = pwrite(fd, data, size, (off_t)offset);
    } while (rc < 0 && errno == EINTR);
    if (rc < 0) {
        return ssti_status_of_errno(errno);
    }
    return (uint64_t)rc == size ? 0 : SST_ENOSPC;
}
