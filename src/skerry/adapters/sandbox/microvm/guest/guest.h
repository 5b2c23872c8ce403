/* What runs first in a microVM, and what keeps it in touch with the host: see init.c. */
#ifndef SKERRY_GUEST_H
#define SKERRY_GUEST_H

#define _GNU_SOURCE
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The agent protocol. Its other side, with the reasons: skerry/adapters/sandbox/microvm/protocol.py. */
enum {
    HEADER_BYTES = 16,
    PAYLOAD_BYTES_MAX = 65536,
    WINDOW_BYTES = 65536,
    CHANNELS_MAX = 32,
    VSOCK_PORT = 1024,
};

enum frame_type {
    T_HELLO = 1, T_CONFIG, T_RUN, T_SIGNAL, T_EXEC, T_COPY_OUT, T_COPY_IN, T_DATA, T_EOF, T_WINDOW, T_TTY_SIZE, T_CLOSE,
    T_LIMITS, T_PING, T_EXIT_SEEN, T_IDENTITY, T_STATS,
    T_WELCOME = 64, T_DONE, T_FAILED, T_OUT, T_ERR, T_OUT_EOF, T_ENDED, T_CREDIT, T_EXITED,
};

enum tag {
    G_ARG = 1, G_ENV, G_CWD, G_USER, G_GROUP, G_HOSTNAME, G_WRITABLE_MIB, G_READ_ONLY, G_MEMORY, G_PIDS, G_STOP_SIGNAL,
    G_FILE, G_FILE_DATA, G_ENTROPY, G_CLOCK, G_MAC, G_ADDRESS, G_GATEWAY, G_GATEWAY_MAC, G_DNS, G_TERMINAL, G_PATH,
};

enum fault { FAULT_PROGRAM = 1, FAULT_GUEST = 2 };

struct bytes {
    const uint8_t *data;
    uint32_t length;
};

struct strings {
    char **list; /* ends with NULL */
    size_t count;
};

/* What the host asked for: of the program, or of one process started beside it. */
struct config {
    struct strings argv, env, dns;
    char *cwd, *path;
    char hostname[65];
    uint32_t uid, gid, groups[64], group_count;
    uint32_t writable_mib, pids_max;
    uint64_t memory_bytes, clock_ns;
    bool read_only, has_network, terminal;
    uint16_t rows, columns;
    uint8_t mac[6], gateway_mac[6];
    uint32_t address, prefix, gateway; /* network byte order, but for the prefix */
};

/* frame.c: the channel to the host */
extern int channel_fd;
void channel_open(bool vsock);
int channel_listener(void);
void channel_accept(void);
bool channel_connected(void);
void channel_wake(void);
bool channel_read(void); /* false: the host is gone */
void channel_flush(void);
bool channel_wants_write(void);
size_t channel_room(void);
void frame_send(uint8_t type, uint16_t channel, const void *payload, uint32_t length);
void frame_failed(uint16_t channel, enum fault fault, const char *what, int error);
void frame_handle(uint8_t type, uint16_t channel, struct bytes payload); /* init.c */

/* config.c */
bool config_read(struct config *config, struct bytes payload);
void config_clear(struct config *config);
uint32_t get32(const uint8_t *p);
void put32(uint8_t *p, uint32_t value);

/* system.c: mounts, modules, network, time, randomness */
void system_boot(void);
void wait_for(const char *path);
const char *wait_for_port(const char *name);
void system_root(void);
const char *system_writable(uint32_t mib); /* NULL, or what could not be done (errno says why) */
const char *system_identity(const struct config *config);
bool system_files(const struct config *config);
void system_entropy(struct bytes entropy);
const char *system_limits(uint64_t memory_bytes, uint32_t pids_max);
void files_keep(struct bytes begin);
void files_append(struct bytes data);
const char *files_write(void);
void make_parents(char *path);
int write_file(const char *path, const char *text);
void group_make(const char *name);
pid_t group_fork(const char *name);
void group_kill(const char *name);
bool group_remove(const char *name); /* false: not empty yet */
bool group_out_of_memory(void);

/* stats.c */
enum { STATS_FIELDS = 8 };
void system_stats(uint8_t *text); /* four bytes each */

/* process.c */
struct process {
    bool used, terminal, ended, copying;
    pid_t pid;
    int in, out, err; /* -1: closed */
    uint16_t channel;
    int status;
    uint32_t window;      /* bytes that we may still send */
    uint8_t *pending;     /* what the process has not read yet */
    uint32_t pending_length, pending_start;
    bool pending_eof;
    char group[16];
};
extern struct process processes[CHANNELS_MAX];
pid_t program_start(const struct config *config, int log_pipe[2], char *why, size_t why_size);
void process_start(uint16_t channel, const struct config *program, const struct config *config, int copy);
struct process *process_find(uint16_t channel);
void process_write(struct process *process, struct bytes data, bool eof);
void process_pump(struct process *process, short in, short out, short err);
void process_close(struct process *process);
void process_reaped(pid_t pid, int status);
void process_finish(struct process *process);
int exit_code(int status);

/* tar.c: run in a child, on its stdin and stdout; they return its exit status */
int tar_write(const char *path);
int tar_read(const char *directory);

#endif
