/* PID 1 of a microVM: brings the guest up, starts one program, and serves the host until that has ended.

   boot -> [template: a snapshot may be taken here] -> HELLO -> CONFIG... RUN -> DONE -> ... -> EXITED -> power off

   One thread and one loop: the host's frames, signals, the program's output, the processes of `exec`. A clone of a snapshot gets
   IDENTITY where a fresh guest gets RUN. Nothing that is secret is on the kernel's command line: it comes by frames. */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>

enum { LINGER_MS = 30000 }; /* an ended program waits so long for a host that is away, to tell it how it ended */

static enum { FRESH, RUNNING, EXITED } state;
static struct config program;
static pid_t program_pid;
static int program_code;
static bool out_of_memory, exit_seen;
static int log_fd = -1, log_pipe[2] = {-1, -1};
static int64_t exited_ms;

static int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void pump_log(void) {
    static char data[16384];
    for (int turn = 0; turn < 4; turn++) {
        ssize_t got = read(log_pipe[0], data, sizeof data);
        if (got <= 0)
            return;
        for (ssize_t done = 0; done < got;) {
            ssize_t put = write(log_fd, data + done, (size_t)(got - done));
            if (put <= 0)
                break; /* the host does not take it: better lost than a program that stands still */
            done += put;
        }
    }
}

static void say_exited(void) {
    uint8_t text[6];
    put32(text, (uint32_t)program_code);
    text[4] = out_of_memory;
    text[5] = 0;
    frame_send(T_EXITED, 0, text, sizeof text);
}

static void say_welcome(struct bytes nonce) {
    uint8_t text[24] = {0};
    if (nonce.length != 16)
        return;
    for (int i = 0; i < CHANNELS_MAX; i++) /* of a host that is no more */
        if (processes[i].used)
            process_close(processes + i);
    memcpy(text, nonce.data, 16);
    text[16] = (uint8_t)state;
    put32(text + 20, (uint32_t)program_pid);
    frame_send(T_WELCOME, 0, text, sizeof text);
    if (state == EXITED)
        say_exited();
}

static void run(uint16_t channel) {
    char why[300] = "";
    const char *failed;
    if (state != FRESH || !program.argv.count) {
        frame_failed(channel, FAULT_GUEST, "nothing to run, or running already", 0);
        return;
    }
    if ((failed = system_identity(&program)) || (failed = system_writable(program.writable_mib)) || (failed = system_limits(program.memory_bytes, program.pids_max))) {
        frame_failed(channel, FAULT_GUEST, failed, errno);
        return;
    }
    if (!system_files(&program))
        return;
    pipe2(log_pipe, O_CLOEXEC);
    fcntl(log_pipe[0], F_SETFL, O_NONBLOCK);
    fchown(log_pipe[1], program.uid, program.gid); /* /dev/stdout may be opened again by its name */
    dup2(log_pipe[1], 1); /* and as /proc/1/fd/1, by those who are not the program themselves */
    program_pid = program_start(&program, log_pipe, why, sizeof why);
    if (program_pid < 0) {
        frame_failed(channel, FAULT_PROGRAM, *why ? why : "cannot start", 0);
        return;
    }
    state = RUNNING;
    uint8_t pid[4];
    put32(pid, (uint32_t)program_pid);
    frame_send(T_DONE, channel, pid, 4);
}

static void take_identity(uint16_t channel, struct bytes payload) {
    struct config fresh = {0};
    const char *failed = config_read(&fresh, payload) ? system_identity(&fresh) : "identity";
    if (failed)
        frame_failed(channel, FAULT_GUEST, failed, errno);
    else
        frame_send(T_DONE, channel, NULL, 0);
    config_clear(&fresh);
}

static void start_process(uint8_t type, uint16_t channel, struct bytes payload) {
    struct config config = {0};
    bool copy = type != T_EXEC;
    if (state != RUNNING)
        frame_failed(channel, FAULT_GUEST, "no program runs", 0);
    else if (!config_read(&config, payload) || (copy ? !config.path : !config.argv.count))
        frame_failed(channel, FAULT_GUEST, "not understood", 0);
    else
        process_start(channel, &program, &config, copy ? type : 0);
    config_clear(&config);
}

static void set_limits(uint16_t channel, struct bytes payload) {
    struct config config = {0};
    const char *failed = config_read(&config, payload) ? system_limits(config.memory_bytes, config.pids_max) : "not understood";
    if (failed)
        frame_failed(channel, FAULT_GUEST, failed, errno);
    else
        frame_send(T_DONE, channel, NULL, 0);
    config_clear(&config);
}

static void say_stats(uint16_t channel) {
    uint8_t text[4 * STATS_FIELDS];
    system_stats(text);
    frame_send(T_DONE, channel, text, sizeof text);
}

static void to_process(struct process *process, uint8_t type, struct bytes payload) {
    if (type == T_DATA || type == T_EOF)
        process_write(process, payload, type == T_EOF);
    else if (type == T_WINDOW && payload.length == 4)
        process->window += get32(payload.data), process_pump(process, 0, POLLIN, POLLIN);
    else if (type == T_SIGNAL && payload.length == 4 && process->terminal)
        ioctl(process->out, TIOCSIG, (int)get32(payload.data)) ? kill(process->pid, (int)get32(payload.data)) : 0;
    else if (type == T_SIGNAL && payload.length == 4)
        kill(process->pid, (int)get32(payload.data));
    else if (type == T_TTY_SIZE && payload.length == 4 && process->terminal) {
        const uint8_t *d = payload.data;
        struct winsize size = {.ws_row = (unsigned short)(d[0] | d[1] << 8), .ws_col = (unsigned short)(d[2] | d[3] << 8)};
        ioctl(process->out, TIOCSWINSZ, &size);
    } else if (type == T_CLOSE)
        process_close(process);
}

void frame_handle(uint8_t type, uint16_t channel, struct bytes payload) {
    struct process *process = channel ? process_find(channel) : NULL;
    switch (type) {
    case T_HELLO: say_welcome(payload); break;
    case T_CONFIG:
        if (state == FRESH && !config_read(&program, payload))
            frame_failed(channel, FAULT_GUEST, "configuration not understood", 0);
        break;
    case T_RUN: run(channel); break;
    case T_IDENTITY: take_identity(channel, payload); break;
    case T_EXEC: case T_COPY_OUT: case T_COPY_IN: start_process(type, channel, payload); break;
    case T_LIMITS: set_limits(channel, payload); break;
    case T_STATS: say_stats(channel); break;
    case T_PING: frame_send(T_DONE, channel, NULL, 0); break;
    case T_EXIT_SEEN: exit_seen = true; break;
    case T_SIGNAL:
        if (!process) {
            if (state == RUNNING && payload.length == 4)
                kill(program_pid, (int)get32(payload.data));
            break;
        } /* fall through */
    default:
        if (process)
            to_process(process, type, payload);
    }
}

static void reap(void) {
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        process_reaped(pid, status);
        if (pid != program_pid || state != RUNNING)
            continue;
        program_code = exit_code(status);
        out_of_memory = program_code == 128 + SIGKILL && group_out_of_memory();
        state = EXITED;
        exited_ms = now_ms();
        group_kill("main");
        for (int turn = 0; turn < 8; turn++)
            pump_log();
        say_exited();
    }
}

static void take_signals(int fd) {
    struct signalfd_siginfo info[8];
    ssize_t got = read(fd, info, sizeof info);
    for (size_t i = 0; got > 0 && i < (size_t)got / sizeof *info; i++)
        if (info[i].ssi_signo == SIGIO)
            channel_wake();
    reap();
}

enum { P_SIGNALS, P_CHANNEL, P_LISTENER, P_LOG, P_PROCESSES };

static int watch(struct pollfd *polled, int signals) {
    bool room = channel_room() > 0;
    polled[P_SIGNALS] = (struct pollfd){signals, POLLIN, 0};
    polled[P_CHANNEL] = (struct pollfd){channel_connected() ? channel_fd : -1, (short)(POLLIN | (channel_wants_write() ? POLLOUT : 0)), 0};
    polled[P_LISTENER] = (struct pollfd){channel_listener(), POLLIN, 0};
    polled[P_LOG] = (struct pollfd){log_pipe[0], POLLIN, 0};
    int count = P_PROCESSES;
    for (int i = 0; i < CHANNELS_MAX; i++, count += 3) {
        struct process *process = processes + i;
        bool reads = process->used && room && process->window;
        bool writes = process->used && process->in >= 0 && process->pending_length;
        polled[count] = (struct pollfd){writes ? process->in : -1, POLLOUT, 0};
        polled[count + 1] = (struct pollfd){reads ? process->out : -1, POLLIN, 0};
        polled[count + 2] = (struct pollfd){reads ? process->err : -1, POLLIN, 0};
    }
    return count;
}

static void serve(const struct pollfd *polled) {
    if (polled[P_SIGNALS].revents)
        take_signals(polled[P_SIGNALS].fd);
    if (polled[P_LISTENER].revents)
        channel_accept();
    if (polled[P_CHANNEL].revents && channel_fd == polled[P_CHANNEL].fd) {
        channel_read();
        channel_flush();
    }
    if (polled[P_LOG].revents)
        pump_log();
    for (int i = 0; i < CHANNELS_MAX; i++) {
        const struct pollfd *own = polled + P_PROCESSES + 3 * i;
        if (processes[i].used && (own[0].revents || own[1].revents || own[2].revents))
            process_pump(processes + i, own[0].revents, own[1].revents, own[2].revents);
    }
}

static void open_log(bool vsock) {
    struct termios raw;
    const char *path = vsock ? "/dev/ttyS0" : "/dev/hvc0"; /* consoles: what their host does not take is lost and holds nobody back */
    wait_for(path);
    log_fd = open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (log_fd >= 0 && !tcgetattr(log_fd, &raw)) {
        cfmakeraw(&raw);
        tcsetattr(log_fd, TCSANOW, &raw);
    }
}

/* Every page of this program, now: a template then has them, and its clones share them. */
static void warm_up(void) { mlockall(MCL_CURRENT); munlockall(); }

/* The one argument says over what the host is reached: "port" (virtio-serial) or "vsock". */
int main(int count_of_words, char **words) {
    static struct pollfd polled[P_PROCESSES + 3 * CHANNELS_MAX];
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD), sigaddset(&mask, SIGIO);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    signal(SIGPIPE, SIG_IGN);
    system_boot();
    int signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    bool vsock = count_of_words > 1 && !strcmp(words[1], "vsock");
    channel_open(vsock);
    open_log(vsock);
    system_root();
    warm_up();
    while (!(state == EXITED && (exit_seen || now_ms() - exited_ms > LINGER_MS))) {
        int count = watch(polled, signals);
        if (poll(polled, (nfds_t)count, state == EXITED ? 1000 : -1) > 0)
            serve(polled);
    }
    sync();
    reboot(RB_AUTOBOOT); /* the monitor ends instead of starting again */
    return 0;
}
