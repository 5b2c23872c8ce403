/* What the guest's kernel is asked for: modules, mounts, groups, network, time, randomness. */
#include "guest.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>
#include <linux/random.h>

#define GROUPS "/sys/fs/cgroup/"

struct kept_file {
    char *path;
    uint32_t mode;
    bool mounted; /* stands for a file of the host: nobody writes to it */
    uint8_t *data;
    size_t length;
    struct kept_file *next;
};

static struct kept_file *kept;
static int upper_fd = -1;
static uint32_t gateway_now; /* as it was set last */
static uint8_t gateway_mac_now[6];

/* /modules lists their files in the order in which they depend on each other; absent devices are no error. */
static void load_modules(void) {
    char line[128];
    FILE *list = fopen("/modules", "re");
    while (list && fgets(line, sizeof line, list)) {
        line[strcspn(line, "\n")] = 0;
        int fd = open(line, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
            perror(line);
        close(fd);
        unlink(line); /* its memory back */
    }
    if (list)
        fclose(list);
}

void wait_for(const char *path) {
    struct stat found;
    for (int turn = 0; turn < 500 && stat(path, &found); turn++)
        usleep(2000);
}

/* The device of the virtio port that the host gave this name; the host announces ports after the device itself. */
const char *wait_for_port(const char *name) {
    static char path[300];
    for (int turn = 0; turn < 500; turn++) {
        DIR *ports = opendir("/sys/class/virtio-ports");
        struct dirent *entry;
        while (ports && (entry = readdir(ports))) {
            char found[64] = "";
            snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
            int fd = open(path, O_RDONLY | O_CLOEXEC);
            if (fd >= 0 && read(fd, found, sizeof found - 1) > 0 && !strncmp(found, name, strlen(name))) {
                snprintf(path, sizeof path, "/dev/%s", entry->d_name);
                close(fd), closedir(ports);
                return path;
            }
            close(fd);
        }
        if (ports)
            closedir(ports);
        usleep(2000);
    }
    return "/dev/none";
}

/* What goes wrong here is said on the kernel's console. */
static void open_console(void) {
    int fd = open("/dev/console", O_RDWR | O_NOCTTY);
    if (fd < 0)
        fd = open("/dev/null", O_RDWR);
    dup2(fd, 0), dup2(fd, 1), dup2(fd, 2);
    if (fd > 2)
        close(fd);
}

/* Up to the moment in which a template is taken: nothing of one instance is known yet. */
void system_boot(void) {
    mkdir("/dev", 0755), mkdir("/proc", 0755), mkdir("/sys", 0755), mkdir("/lower", 0755), mkdir("/upper", 0755), mkdir("/new", 0755);
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    open_console();
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sys", "/sys", "sysfs", 0, NULL);
    write_file("/proc/sys/vm/overcommit_memory", "1"); /* as on a large host: what is too much is found out when it is used */
    load_modules();
    mount("group", "/sys/fs/cgroup", "cgroup2", 0, NULL);
    write_file(GROUPS "cgroup.subtree_control", "+memory +pids");
    mkdir(GROUPS "sandbox", 0755);
    write_file(GROUPS "sandbox/cgroup.subtree_control", "+memory +pids");
    wait_for("/dev/vda");
    if (mount("/dev/vda", "/lower", "ext4", MS_RDONLY, "noload") && mount("/dev/vda", "/lower", "ext4", MS_RDONLY, NULL))
        perror("/dev/vda");
}

int write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t put = write(fd, text, strlen(text));
    close(fd);
    return put < 0 ? -1 : 0;
}

/* A /dev of its own, in which the host's channels and the disk are not. */
static void make_devices(void) {
    static const struct {
        const char *path;
        unsigned major, minor;
    } nodes[] = {{"/dev/null", 1, 3}, {"/dev/zero", 1, 5}, {"/dev/full", 1, 7}, {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0}};
    umask(0);
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++)
        mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor));
    umask(022);
    mkdir("/dev/pts", 0755);
    mkdir("/dev/shm", 01777);
    mount("pts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620");
    mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=64m");
    symlink("pts/ptmx", "/dev/ptmx");
    symlink("/proc/self/fd", "/dev/fd");
    symlink("/proc/self/fd/0", "/dev/stdin");
    symlink("/proc/self/fd/1", "/dev/stdout");
    symlink("/proc/self/fd/2", "/dev/stderr");
}

static const char *mount_into(const char *name, const char *type, unsigned long flags, const char *options) {
    static char path[64];
    snprintf(path, sizeof path, "/new/%s", name);
    mkdir(path, 0755);
    return mount(name, path, type, flags, options) ? path : NULL;
}

static int raise_device(int fd, const char *name) {
    struct ifreq request = {0};
    strcpy(request.ifr_name, name);
    if (ioctl(fd, SIOCGIFFLAGS, &request))
        return -1;
    if (request.ifr_flags & IFF_UP)
        return 0;
    request.ifr_flags |= IFF_UP;
    return ioctl(fd, SIOCSIFFLAGS, &request);
}

/* Before a template is taken: to bring a device up is the most of what a network costs. IPv6 leads nowhere from here. */
static void raise_devices(void) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    write_file("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1");
    raise_device(fd, "lo");
    raise_device(fd, "eth0"); /* there may be none */
    close(fd);
}

/* The image below, a tmpfs of the size that may be written above, and this as the root of everything from here on. It is made
   before anybody is known, since a template has it then; RUN only sets the size. The channels are opened before: their devices are not in it. */
void system_root(void) {
    const char *failed = NULL;
    if (mount("upper", "/upper", "tmpfs", 0, "mode=0755,size=1m"))
        failed = "/upper";
    mkdir("/upper/data", 0755), mkdir("/upper/work", 0755);
    upper_fd = open("/upper", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (!failed && mount("root", "/new", "overlay", 0, "lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work"))
        failed = "overlay";
    if (failed || (failed = mount_into("dev", "tmpfs", MS_NOSUID, "mode=0755,size=1m")) ||
        (failed = mount_into("proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) ||
        (failed = mount_into("sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) ||
        (mount("group", "/new/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) && (failed = "cgroup2")) ||
        ((chdir("/new") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/")) && (failed = "root"))) {
        perror(failed);
        return;
    }
    make_devices();
    raise_devices();
    group_make("main");
}

const char *system_writable(uint32_t mib) {
    char path[32], options[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", upper_fd);
    snprintf(options, sizeof options, "mode=0755,size=%um", mib ? mib : 1);
    return mount("upper", path, NULL, MS_REMOUNT, options) ? "the writable layer" : NULL;
}

void files_keep(struct bytes begin) {
    struct kept_file *file = calloc(1, sizeof *file);
    file->mode = get32(begin.data) & 07777;
    file->mounted = get32(begin.data) >> 31;
    file->path = strndup((const char *)begin.data + 4, begin.length - 4);
    file->next = kept;
    kept = file;
}

void files_append(struct bytes data) {
    if (!kept)
        return;
    kept->data = realloc(kept->data, kept->length + data.length);
    memcpy(kept->data + kept->length, data.data, data.length);
    kept->length += data.length;
}

void make_parents(char *path) {
    for (char *slash = path + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        mkdir(path, 0755);
        *slash = '/';
    }
}

static int put_file(char *path, const void *data, size_t length, mode_t mode) {
    make_parents(path);
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -1;
    const uint8_t *from = data;
    while (length) {
        ssize_t put = write(fd, from, length);
        if (put <= 0) {
            close(fd);
            return -1;
        }
        from += put;
        length -= (size_t)put;
    }
    fchmod(fd, mode);
    return fd;
}

/* The files that were asked for, in the memory that backs the writable layer. They belong to the program's user. */
static bool write_kept(const struct config *config, char *failed, size_t size) {
    bool good = true;
    while (kept) {
        struct kept_file *file = kept;
        int fd = put_file(file->path, file->data, file->length, (mode_t)file->mode);
        if (fd < 0 && good) {
            snprintf(failed, size, "%s", file->path);
            good = false;
        }
        if (fd >= 0) {
            if (!file->mounted)
                fchown(fd, config->uid, config->gid);
            close(fd);
        }
        if (fd >= 0 && file->mounted && !mount(file->path, file->path, NULL, MS_BIND, NULL))
            mount(NULL, file->path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL);
        if (file->data)
            memset(file->data, 0, file->length);
        kept = file->next;
        free(file->data), free(file->path), free(file);
    }
    return good;
}

static void write_names(const struct config *config) {
    char text[1024], address[INET_ADDRSTRLEN] = "127.0.1.1";
    int fd, length = 0;
    if (config->dns.count) {
        for (size_t i = 0; i < config->dns.count && length < (int)sizeof text - 64; i++)
            length += snprintf(text + length, sizeof text - (size_t)length, "nameserver %s\n", config->dns.list[i]);
        if ((fd = put_file((char[]){"/etc/resolv.conf"}, text, (size_t)length, 0644)) >= 0)
            close(fd);
    }
    if (!config->hostname[0])
        return;
    if (config->has_network)
        inet_ntop(AF_INET, &config->address, address, sizeof address);
    length = snprintf(text, sizeof text, "127.0.0.1 localhost\n::1 localhost\n%s %s\n", address, config->hostname);
    if ((fd = put_file((char[]){"/etc/hosts"}, text, (size_t)length, 0644)) >= 0)
        close(fd);
    length = snprintf(text, sizeof text, "%s\n", config->hostname);
    if ((fd = put_file((char[]){"/etc/hostname"}, text, (size_t)length, 0644)) >= 0)
        close(fd);
}

bool system_files(const struct config *config) {
    static char failed[256];
    write_names(config);
    if (!write_kept(config, failed, sizeof failed)) {
        int error = errno;
        frame_failed(0, FAULT_PROGRAM, failed, error);
        return false;
    }
    if (config->read_only && mount("root", "/", NULL, MS_REMOUNT | MS_RDONLY, NULL))
        perror("read-only root");
    return true;
}

/* Credited: it comes from the host's own generator. Without a reseed, clones of one snapshot would go on alike. */
void system_entropy(struct bytes entropy) {
    struct {
        int entropy_count, buf_size;
        uint8_t buf[256];
    } pool;
    int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || !entropy.length || entropy.length > sizeof pool.buf)
        return;
    pool.entropy_count = (int)entropy.length * 8;
    pool.buf_size = (int)entropy.length;
    memcpy(pool.buf, entropy.data, entropy.length);
    if (ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG))
        perror("entropy");
    memset(&pool, 0, sizeof pool);
    close(fd);
}

static void set_address(void *place, uint32_t address) {
    *(struct sockaddr_in *)place = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = address};
}

static const char *set_route(int fd, const struct config *config) {
    static const uint8_t none[6];
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
    if (!config->gateway)
        return NULL;
    if (memcmp(config->gateway_mac, none, 6)) { /* known: the first packet need not wait for an answer */
        struct arpreq neighbour = {.arp_flags = ATF_PERM | ATF_COM, .arp_dev = "eth0"};
        set_address(&neighbour.arp_pa, config->gateway);
        neighbour.arp_ha.sa_family = ARPHRD_ETHER;
        memcpy(neighbour.arp_ha.sa_data, config->gateway_mac, 6);
        if (ioctl(fd, SIOCSARP, &neighbour))
            return "neighbour";
    }
    set_address(&route.rt_dst, 0);
    set_address(&route.rt_genmask, 0);
    set_address(&route.rt_gateway, config->gateway);
    return ioctl(fd, SIOCADDRT, &route) ? "route" : NULL;
}

static bool same_address(int fd, unsigned long asked, uint32_t address) {
    struct ifreq request = {.ifr_name = "eth0"};
    return !ioctl(fd, asked, &request) && ((struct sockaddr_in *)&request.ifr_addr)->sin_addr.s_addr == address;
}

/* Most guests of a node have one and the same network, each in a namespace of its own: then a clone has it already. */
static bool has_network(int fd, const struct config *config, uint32_t mask) {
    struct ifreq request = {.ifr_name = "eth0"};
    return config->gateway && config->gateway == gateway_now && !memcmp(config->gateway_mac, gateway_mac_now, 6) &&
           !ioctl(fd, SIOCGIFHWADDR, &request) && !memcmp(request.ifr_hwaddr.sa_data, config->mac, 6) &&
           same_address(fd, SIOCGIFADDR, config->address) && same_address(fd, SIOCGIFNETMASK, mask) && !raise_device(fd, "eth0");
}

/* The device stays up: what an earlier identity had (its address, and with that its routes) is replaced. */
static const char *change_network(int fd, const struct config *config, uint32_t mask) {
    struct ifreq request = {.ifr_name = "eth0"};
    struct rtentry old = {.rt_flags = RTF_UP};
    const char *failed;
    gateway_now = 0;
    set_address(&old.rt_dst, 0), set_address(&old.rt_genmask, 0);
    ioctl(fd, SIOCDELRT, &old);
    request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(request.ifr_hwaddr.sa_data, config->mac, 6);
    if (ioctl(fd, SIOCSIFHWADDR, &request))
        return "eth0: hardware address";
    set_address(&request.ifr_addr, config->address);
    if (ioctl(fd, SIOCSIFADDR, &request))
        return "address";
    set_address(&request.ifr_netmask, mask);
    if (ioctl(fd, SIOCSIFNETMASK, &request))
        return "network mask";
    if (raise_device(fd, "eth0"))
        return "eth0";
    if ((failed = set_route(fd, config)))
        return failed;
    gateway_now = config->gateway;
    memcpy(gateway_mac_now, config->gateway_mac, 6);
    return NULL;
}

static const char *set_network(const struct config *config) {
    uint32_t mask = config->prefix ? htonl(~0u << (32 - config->prefix)) : 0;
    if (!config->has_network)
        return NULL;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const char *failed = has_network(fd, config, mask) ? NULL : change_network(fd, config, mask);
    int error = errno;
    close(fd);
    errno = error;
    return failed;
}

/* Who this guest is, at its start and again after a resume as somebody else. */
const char *system_identity(const struct config *config) {
    if (config->clock_ns) {
        struct timespec now = {(time_t)(config->clock_ns / 1000000000), (long)(config->clock_ns % 1000000000)};
        clock_settime(CLOCK_REALTIME, &now);
    }
    if (config->hostname[0])
        sethostname(config->hostname, strlen(config->hostname));
    return set_network(config);
}

static uint64_t memory_used(void) {
    char text[32] = "";
    int fd = open(GROUPS "sandbox/memory.current", O_RDONLY | O_CLOEXEC);
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    return got > 0 ? strtoull(text, NULL, 10) : 0;
}

/* Lower than what is in use: the kernel would kill for it. So what can be given back is, and the rest is an error. */
static bool make_room(uint64_t memory_bytes) {
    char text[32];
    for (int turn = 0; turn < 10; turn++) {
        uint64_t used = memory_used();
        if (used <= memory_bytes)
            return true;
        snprintf(text, sizeof text, "%llu", (unsigned long long)(used - memory_bytes));
        write_file(GROUPS "sandbox/memory.reclaim", text);
    }
    errno = EBUSY;
    return false;
}

const char *system_limits(uint64_t memory_bytes, uint32_t pids_max) {
    char text[32];
    if (memory_bytes) {
        if (!make_room(memory_bytes))
            return "more memory is in use";
        snprintf(text, sizeof text, "%llu", (unsigned long long)memory_bytes);
        if (write_file(GROUPS "sandbox/memory.max", text))
            return "memory.max";
    }
    if (pids_max) {
        snprintf(text, sizeof text, "%u", pids_max);
        if (write_file(GROUPS "sandbox/pids.max", text))
            return "pids.max";
    }
    return NULL;
}

static const char *group_file(const char *name, const char *file) {
    static char path[96];
    snprintf(path, sizeof path, GROUPS "sandbox/%s%s%s", name, *file ? "/" : "", file);
    return path;
}

void group_make(const char *name) { mkdir(group_file(name, ""), 0755); }

/* A child that is in the group from its first moment. To move one there the kernel waits for all of its CPUs, which under emulation
   is the most of a start; so that is done only where the group has no room for one to be born in. */
pid_t group_fork(const char *name) {
    int fd = open(group_file(name, ""), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct clone_args wanted = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)fd};
    pid_t pid = fd < 0 ? -1 : (pid_t)syscall(SYS_clone3, &wanted, sizeof wanted);
    if (fd >= 0)
        close(fd);
    if (pid < 0 && !(pid = fork()))
        write_file(group_file(name, "cgroup.procs"), "0");
    return pid;
}

void group_kill(const char *name) { write_file(group_file(name, "cgroup.kill"), "1"); }

bool group_remove(const char *name) { return !rmdir(group_file(name, "")) || errno == ENOENT; }

bool group_out_of_memory(void) {
    char line[64];
    bool killed = false;
    FILE *events = fopen(GROUPS "sandbox/memory.events", "re");
    while (events && fgets(line, sizeof line, events))
        killed |= !strncmp(line, "oom_kill ", 9) && atoi(line + 9) > 0;
    if (events)
        fclose(events);
    return killed;
}
