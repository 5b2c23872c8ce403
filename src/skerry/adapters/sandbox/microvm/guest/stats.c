/* How full what the program has is, so that the host can tell why something of it fails. */
#include "guest.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#define SANDBOX "/sys/fs/cgroup/sandbox/"

enum {
    PROCESSES_MAX = 64,     /* the first ones: to look at all that a fork bomb made would take what is left of the CPU */
    DESCRIPTORS_LEAST = 64, /* a process that allows itself fewer does so on purpose, and is not in need */
};

/* The number behind `name` in a file of "name number" lines. */
static uint32_t counter(const char *path, const char *name) {
    char line[64];
    uint32_t found = 0;
    size_t length = strlen(name);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, name, length) && line[length] == ' ')
            found = (uint32_t)strtoul(line + length + 1, NULL, 10);
    if (file)
        fclose(file);
    return found;
}

static uint32_t open_files(int pid) {
    char path[32];
    uint32_t count = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *files = opendir(path);
    struct dirent *entry;
    while (files && (entry = readdir(files)))
        count += entry->d_name[0] != '.';
    if (files)
        closedir(files);
    return count;
}

/* Of the process that is nearest to its limit. */
static void find_descriptors(uint32_t *used, uint32_t *most) {
    char line[32];
    FILE *pids = fopen(SANDBOX "main/cgroup.procs", "re");
    for (int turn = 0; pids && turn < PROCESSES_MAX && fgets(line, sizeof line, pids); turn++) {
        struct rlimit limit;
        int pid = atoi(line);
        if (prlimit(pid, RLIMIT_NOFILE, NULL, &limit) || limit.rlim_cur < DESCRIPTORS_LEAST)
            continue;
        uint32_t count = open_files(pid), limited = limit.rlim_cur > UINT32_MAX ? UINT32_MAX : (uint32_t)limit.rlim_cur;
        if (!*most || (uint64_t)count * *most > (uint64_t)*used * limited)
            *used = count, *most = limited;
    }
    if (pids)
        fclose(pids);
}

/* STATS_FIELDS numbers: forks refused, processes killed for lack of memory, KiB of the disk in use and of it, files on it and at
   most, open files of a process and at most. */
void system_stats(uint8_t *text) {
    struct statvfs disk = {0};
    uint32_t used = 0, most = 0;
    statvfs("/", &disk);
    find_descriptors(&used, &most);
    put32(text, counter(SANDBOX "main/pids.events", "max") + counter(SANDBOX "pids.events", "max"));
    put32(text + 4, counter(SANDBOX "memory.events", "oom_kill"));
    put32(text + 8, (uint32_t)((disk.f_blocks - disk.f_bavail) * disk.f_frsize / 1024));
    put32(text + 12, (uint32_t)(disk.f_blocks * disk.f_frsize / 1024));
    put32(text + 16, (uint32_t)(disk.f_files - disk.f_ffree));
    put32(text + 20, (uint32_t)disk.f_files);
    put32(text + 24, used);
    put32(text + 28, most);
}
