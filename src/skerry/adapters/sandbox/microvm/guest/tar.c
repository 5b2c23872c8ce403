/* Tar archives (POSIX pax; GNU's long names are read too) of files inside the guest: links lead nowhere else. */
#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { BLOCK = 512, DEPTH_MAX = 200, EXTENDED_BYTES_MAX = 65536 };

struct header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], sum[8], type, link[100], magic[6], version[2], uname[32], gname[32],
        major[8], minor[8], prefix[155], rest[12];
};

static uint8_t buffer[65536];

static bool put(const void *data, size_t length) {
    const uint8_t *from = data;
    while (length) {
        ssize_t done = write(1, from, length);
        if (done <= 0)
            return false;
        from += done;
        length -= (size_t)done;
    }
    return true;
}

static bool pad(uint64_t size) {
    static const char zeros[BLOCK];
    return put(zeros, (BLOCK - size % BLOCK) % BLOCK);
}

static void octal(char *field, int width, uint64_t value) {
    for (int i = width - 2; i >= 0; i--, value >>= 3)
        field[i] = (char)('0' + (value & 7));
}

static unsigned sum_of(const struct header *header) {
    const uint8_t *bytes = (const void *)header;
    unsigned sum = 0;
    for (size_t i = 0; i < BLOCK; i++)
        sum += i >= offsetof(struct header, sum) && i < offsetof(struct header, type) ? ' ' : bytes[i];
    return sum;
}

static bool put_header(struct header *header) {
    memcpy(header->magic, "ustar\0" "00", 8);
    octal(header->sum, 8, sum_of(header));
    return put(header, BLOCK);
}

/* "length key=value\n", where length counts itself. */
static size_t record(char *text, const char *key, const char *value) {
    size_t body = strlen(key) + strlen(value) + 3, length = body + 1;
    while (length != body + (size_t)snprintf(NULL, 0, "%zu", length))
        length = body + (size_t)snprintf(NULL, 0, "%zu", length);
    return (size_t)sprintf(text, "%zu %s=%s\n", length, key, value);
}

static bool put_extended(const char *name, const char *link, uint64_t size) {
    static char text[2 * PATH_MAX + 128];
    char number[24];
    size_t length = 0;
    if (strlen(name) > 100)
        length += record(text + length, "path", name);
    if (link && strlen(link) > 100)
        length += record(text + length, "linkpath", link);
    snprintf(number, sizeof number, "%llu", (unsigned long long)size);
    if (size >> 33)
        length += record(text + length, "size", number);
    if (!length)
        return true;
    struct header header = {.name = "pax", .type = 'x'};
    octal(header.mode, 8, 0644), octal(header.uid, 8, 0), octal(header.gid, 8, 0), octal(header.mtime, 12, 0);
    octal(header.size, 12, length);
    return put_header(&header) && put(text, length) && pad(length);
}

static bool put_content(const char *path, uint64_t size) {
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    uint64_t left = size;
    bool good = true;
    while (left && good) {
        size_t wanted = left < sizeof buffer ? left : sizeof buffer;
        ssize_t got = fd < 0 ? 0 : read(fd, buffer, wanted);
        if (got <= 0) { /* it shrank: the archive has to be as long as its header says */
            memset(buffer, 0, wanted);
            got = (ssize_t)wanted;
        }
        good = put(buffer, (size_t)got);
        left -= (uint64_t)got;
    }
    if (fd >= 0)
        close(fd);
    return good && pad(size);
}

static char type_of(mode_t mode) {
    return S_ISREG(mode) ? '0' : S_ISLNK(mode) ? '2' : S_ISCHR(mode) ? '3' : S_ISBLK(mode) ? '4' : S_ISDIR(mode) ? '5' : S_ISFIFO(mode) ? '6' : 0;
}

static bool put_tree(const char *path, const char *name, int depth);

static bool put_children(const char *path, const char *name, int depth) {
    DIR *directory = opendir(path);
    struct dirent *entry;
    bool good = true;
    while (directory && good && (entry = readdir(directory))) {
        char child[PATH_MAX], child_name[PATH_MAX];
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        if (snprintf(child, sizeof child, "%s/%s", path, entry->d_name) >= PATH_MAX ||
            snprintf(child_name, sizeof child_name, "%s%s", name, entry->d_name) >= PATH_MAX)
            continue;
        good = put_tree(child, child_name, depth + 1);
    }
    if (directory)
        closedir(directory);
    return good;
}

static bool put_tree(const char *path, const char *name, int depth) {
    struct stat found;
    struct header header = {0};
    char link[PATH_MAX] = "", full[PATH_MAX + 1];
    if (depth > DEPTH_MAX || lstat(path, &found) || !type_of(found.st_mode))
        return true; /* gone meanwhile, or a socket */
    uint64_t size = S_ISREG(found.st_mode) ? (uint64_t)found.st_size : 0;
    if (S_ISLNK(found.st_mode) && readlink(path, link, sizeof link - 1) < 0)
        return true;
    snprintf(full, sizeof full, "%s%s", name, S_ISDIR(found.st_mode) && *name ? "/" : "");
    memcpy(header.name, full, strnlen(full, 100));
    memcpy(header.link, link, strnlen(link, 100));
    header.type = type_of(found.st_mode);
    octal(header.mode, 8, found.st_mode & 07777), octal(header.uid, 8, found.st_uid), octal(header.gid, 8, found.st_gid);
    octal(header.size, 12, size), octal(header.mtime, 12, found.st_mtime < 0 ? 0 : (uint64_t)found.st_mtime);
    octal(header.major, 8, major(found.st_rdev)), octal(header.minor, 8, minor(found.st_rdev));
    if (*full && !(put_extended(full, link, size) && put_header(&header)))
        return false;
    if (size)
        return put_content(path, size);
    return S_ISDIR(found.st_mode) ? put_children(path, full, depth) : true;
}

int tar_write(const char *path) {
    static const char end[2 * BLOCK];
    struct stat found;
    char *copy = strdup(path);
    if (lstat(path, &found)) {
        dprintf(2, "%s: %s\n", path, strerror(errno));
        return 1;
    }
    const char *name = basename(copy);
    return put_tree(path, *name == '/' ? "" : name, 0) && put(end, sizeof end) ? 0 : 1;
}

static bool get(void *data, size_t length) {
    uint8_t *to = data;
    while (length) {
        ssize_t got = read(0, to, length);
        if (got <= 0)
            return false;
        to += got;
        length -= (size_t)got;
    }
    return true;
}

static uint64_t number(const char *field, int width) {
    uint64_t value = 0;
    if ((uint8_t)field[0] & 0x80) { /* GNU: binary */
        for (int i = 1; i < width; i++)
            value = value << 8 | (uint8_t)field[i];
        return value;
    }
    for (int i = 0; i < width && field[i] && field[i] != ' '; i++)
        if (field[i] >= '0' && field[i] <= '7')
            value = value << 3 | (uint64_t)(field[i] - '0');
    return value;
}

struct entry {
    char name[PATH_MAX], link[PATH_MAX];
    uint64_t size;
    bool has_name, has_link, has_size;
};

static void set(char *place, bool *has, const char *value, size_t length) {
    length = length < PATH_MAX - 1 ? length : PATH_MAX - 1;
    memcpy(place, value, length);
    place[length] = 0;
    *has = true;
}

static void read_records(struct entry *entry, char *text, size_t length) {
    for (char *at = text, *end = text + length; at < end;) {
        char *key;
        unsigned long size = strtoul(at, &key, 10);
        if (!size || size > (unsigned long)(end - at) || *key != ' ')
            return;
        char *value = memchr(key, '=', (size_t)(at + size - key));
        if (!value)
            return;
        size_t value_length = (size_t)(at + size - 1 - (value + 1));
        *value++ = 0;
        if (!strcmp(key + 1, "path"))
            set(entry->name, &entry->has_name, value, value_length);
        else if (!strcmp(key + 1, "linkpath"))
            set(entry->link, &entry->has_link, value, value_length);
        else if (!strcmp(key + 1, "size"))
            entry->size = strtoull(value, NULL, 10), entry->has_size = true;
        at += size;
    }
}

static bool skip(uint64_t size) {
    while (size) {
        size_t part = size < sizeof buffer ? size : sizeof buffer;
        if (!get(buffer, part))
            return false;
        size -= part;
    }
    return true;
}

/* 'x', 'L' and 'K' say something of the next entry. */
static bool read_extended(struct entry *entry, char type, uint64_t size) {
    static char text[EXTENDED_BYTES_MAX + 1];
    if (size > EXTENDED_BYTES_MAX || !get(text, size) || !skip((BLOCK - size % BLOCK) % BLOCK))
        return false;
    text[size] = 0;
    if (type == 'x')
        read_records(entry, text, size);
    else if (type == 'L')
        set(entry->name, &entry->has_name, text, strlen(text));
    else if (type == 'K')
        set(entry->link, &entry->has_link, text, strlen(text));
    return true;
}

static bool safe(const char *name) {
    for (const char *at = name; at; at = strchr(at, '/')) {
        at += *at == '/';
        if (!strncmp(at, "..", 2) && (at[2] == '/' || !at[2]))
            return false;
    }
    return true;
}

static bool write_content(const char *path, uint64_t size, mode_t mode, uid_t uid, gid_t gid) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    uint64_t left = size;
    bool good = fd >= 0;
    while (left && good) {
        size_t part = left < sizeof buffer ? left : sizeof buffer;
        good = get(buffer, part) && write(fd, buffer, part) == (ssize_t)part;
        left -= part;
    }
    if (good)
        good = !fchown(fd, uid, gid) && !fchmod(fd, mode);
    if (fd >= 0)
        close(fd);
    return good && skip((BLOCK - size % BLOCK) % BLOCK);
}

static bool make(struct entry *entry, const struct header *header) {
    mode_t mode = (mode_t)number(header->mode, 8) & 07777;
    uid_t uid = (uid_t)number(header->uid, 8);
    gid_t gid = (gid_t)number(header->gid, 8);
    dev_t device = makedev((unsigned)number(header->major, 8), (unsigned)number(header->minor, 8));
    char *path = entry->name, type = header->type;
    struct stat found;
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        path[--length] = 0;
    make_parents(path);
    if (type == '5')
        return (!mkdir(path, 0755) || (errno == EEXIST && !stat(path, &found) && S_ISDIR(found.st_mode))) && !chown(path, uid, gid) && !chmod(path, mode);
    unlink(path);
    switch (type) {
    case '0': case 0: case '7': return write_content(path, entry->size, mode, uid, gid);
    case '1': return !link(entry->link, path);
    case '2': return !symlink(entry->link, path) && !lchown(path, uid, gid);
    case '3': return !mknod(path, S_IFCHR | mode, device) && !chown(path, uid, gid);
    case '4': return !mknod(path, S_IFBLK | mode, device) && !chown(path, uid, gid);
    case '6': return !mkfifo(path, mode) && !chown(path, uid, gid);
    default: return skip((entry->size + BLOCK - 1) / BLOCK * BLOCK);
    }
}

static void name_entry(struct entry *entry, const struct header *header) {
    char name[300];
    snprintf(name, sizeof name, "%.155s%s%.100s", header->prefix, !memcmp(header->magic, "ustar\0", 6) && *header->prefix ? "/" : "", header->name);
    if (memcmp(header->magic, "ustar\0", 6) || !*header->prefix)
        snprintf(name, sizeof name, "%.100s", header->name);
    if (!entry->has_name)
        set(entry->name, &entry->has_name, name, strlen(name));
    if (!entry->has_link)
        set(entry->link, &entry->has_link, header->link, strnlen(header->link, 100));
    if (!entry->has_size)
        entry->size = number(header->size, 12);
    size_t slashes = strspn(entry->name, "/");
    memmove(entry->name, entry->name + slashes, strlen(entry->name + slashes) + 1);
}

int tar_read(const char *directory) {
    static struct entry entry;
    struct header header;
    char *parents = malloc(strlen(directory) + 2);
    sprintf(parents, "%s/", directory);
    make_parents(parents);
    if (chdir(directory)) {
        dprintf(2, "%s: %s\n", directory, strerror(errno));
        return 1;
    }
    while (get(&header, BLOCK)) {
        if (!header.name[0] && !header.type) { /* the end; what follows is read, so that its writer is not stopped */
            while (read(0, buffer, sizeof buffer) > 0)
                ;
            return 0;
        }
        if (number(header.sum, 8) != sum_of(&header)) {
            dprintf(2, "not a tar archive\n");
            return 1;
        }
        if (strchr("xgLK", header.type) && header.type) {
            if (!read_extended(&entry, header.type, number(header.size, 12)))
                return 1;
            continue;
        }
        name_entry(&entry, &header);
        if (!safe(entry.name)) {
            dprintf(2, "%s: leads out of the directory\n", entry.name);
            return 1;
        }
        if (*entry.name && !make(&entry, &header)) {
            dprintf(2, "%s: %s\n", entry.name, strerror(errno));
            return 1;
        }
        memset(&entry, 0, sizeof entry);
    }
    return 0;
}
