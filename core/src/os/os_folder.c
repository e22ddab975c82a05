/* SPDX-License-Identifier: MIT */

/* Private folders, among those of everybody.
 *
 * Where everybody may write, others can put things in place of ours: a folder is ours
 * if it is none of their links and belongs to us, and once it does, the folder around
 * it, which is sticky, keeps it from being swapped. What is in it only we can touch.
 * Removing goes by descriptors, follows no link, and enters no other file system.
 *
 * Writes no shared memory. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/status.h"
#include "os/os.h"
#include "sidestep/sidestep.h"

enum {
    FOLDER_MODE = 0700,
    DEPTH_MAX = 32, /* folders within folders; each has a descriptor meanwhile */
};

int
ssti_os_folder_make(const char *path, struct ssti_os_file *out)
{
    if (mkdir(path, FOLDER_MODE) != 0) {
        return ssti_status_of_errno(errno);
    }
    return ssti_os_folder_look(path, out);
}

int
ssti_os_folder_look(const char *path, struct ssti_os_file *out)
{
    struct stat status;

    if (lstat(path, &status) != 0) {
        return ssti_status_of_errno(errno);
    }
    if (!S_ISDIR(status.st_mode) || status.st_uid != geteuid()) {
        return SST_EPERM;
    }
    out->device = status.st_dev;
    out->number = status.st_ino;
    return 0;
}

int
ssti_os_folder_remove_empty(const char *path)
{
    return rmdir(path) == 0 ? 0 : ssti_status_of_errno(errno);
}

static int
open_folder(int parent, const char *name)
{
    return openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* Takes the descriptor. What cannot be removed stays, and the folder with it. */
static void
empty_folder(int fd, dev_t device, int depth)
{
    DIR *const list = fdopendir(fd);

    if (list == NULL) {
        ssti_os_close(fd);
        return;
    }
    for (const struct dirent *entry; (entry = readdir(list)) != NULL;) {
        const char *const name = entry->d_name;
        struct stat status;
        int inner;

        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
            unlinkat(fd, name, 0) == 0) {
            continue;
        }
        inner = depth < DEPTH_MAX ? open_folder(fd, name) : -1;
        if (inner < 0) {
            continue;
        }
        if (fstat(inner, &status) != 0 || status.st_dev != device) {
            ssti_os_close(inner);
            continue;
        }
        empty_folder(inner, device, depth + 1);
        (void)unlinkat(fd, name, AT_REMOVEDIR); /* not empty: it stays */
    }
    (void)closedir(list);
}

int
ssti_os_folder_remove(const char *path, const struct ssti_os_file *file)
{
    struct stat status;
    const int fd = open_folder(AT_FDCWD, path);

    if (fd < 0) {
        return ssti_status_of_errno(errno);
    }
    if (fstat(fd, &status) != 0 || status.st_uid != geteuid() ||
        status.st_dev != file->device || status.st_ino != file->number) {
        ssti_os_close(fd);
        return SST_EPERM;
    }
    empty_folder(fd, status.st_dev, 0);
    return ssti_os_folder_remove_empty(path);
}
