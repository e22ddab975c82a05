/* SPDX-License-Identifier: MIT */

/* Statuses in words. The table is in the public header; nothing here lists a status. */

#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *
sst_status_text(int status)
{
    switch (status) {
#define STATUS_CASE(name, value, category, python, text) \
    case (value):                                        \
        return text;
        SST_STATUS_TABLE(STATUS_CASE)
#undef STATUS_CASE
    default:
        return status >= 0 ? "success" : "unknown status";
    }
}

const char *
sst_status_name(int status)
{
    switch (status) {
#define STATUS_CASE(name, value, category, python, text) \
    case (value):                                        \
        return "SST_" #name;
        SST_STATUS_TABLE(STATUS_CASE)
#undef STATUS_CASE
    default:
        return status >= 0 ? "SST_OK" : "SST_?";
    }
}

enum sst_category
sst_status_category(int status)
{
    switch (status) {
#define STATUS_CASE(name, value, category, python, text) \
    case (value):                                        \
        return SST_CATEGORY_##category;
        SST_STATUS_TABLE(STATUS_CASE)
#undef STATUS_CASE
    default:
        return status >= 0 ? SST_CATEGORY_OK : SST_CATEGORY_INTERNAL;
    }
}

int
ssti_status_of_errno(int number)
{
    switch (-number) {
#define STATUS_CASE(name, value, category, python, text) \
    case (value):                                        \
        return value;
        SST_STATUS_TABLE(STATUS_CASE)
#undef STATUS_CASE
    default:
        return SST_EIO;
    }
}

static void __attribute__((format(printf, 2, 0)))
write_text(struct sst_error *err, const char *format, va_list args)
{
    const size_t used = strlen(err->text);

    (void)vsnprintf(err->text + used, sizeof err->text - used, format, args); /* cut */
}

int
ssti_error_set(struct sst_error *err, int status, const char *format, ...)
{
    va_list args;

    if (err == NULL) {
        return status;
    }
    err->status = status;
    err->text[0] = '\0';
    va_start(args, format);
    write_text(err, format, args);
    va_end(args);
    return status;
}

int
ssti_error_append(struct sst_error *err, int status, const char *format, ...)
{
    va_list args;
    size_t used;

    if (err == NULL) {
        return status;
    }
    err->status = status;
    err->text[sizeof err->text - 1] = '\0';
    used = strlen(err->text);
    if (used > 0 && used + 3 < sizeof err->text) {
        memcpy(err->text + used, "; ", 3);
    }
    va_start(args, format);
    write_text(err, format, args);
    va_end(args);
    return status;
}
