/* The program, and processes that the host starts beside it. */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

struct process processes[CHANNELS_MAX];

int exit_code(int status) { return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status); }

static void report(int fd, const char *what) {
    char text[300];
    int length = snprintf(text, sizeof text, "%s: %s", what, strerror(errno));
    if (write(fd, text, (size_t)length) < 0)
        perror(text);
    _exit(127);
}

static void become(const struct config *config, const char *cwd, int why) {
    char *path = strdup(cwd && *cwd ? cwd : "/");
    char *whole = malloc(strlen(path) + 2);
    strcpy(whole, path);
    strcat(whole, "/");
    make_parents(whole); /* as container engines do */
    if (chdir(path))
        report(why, path);
    gid_t groups[64];
    for (uint32_t i = 0; i < config->group_count; i++)
        groups[i] = config->groups[i];
    if (setgroups(config->group_count, groups) || setgid(config->gid) || setuid(config->uid))
        report(why, "user");
    free(path), free(whole);
}

static char *lookup(char **env, const char *name) {
    size_t length = strlen(name);
    for (; env && *env; env++)
        if (!strncmp(*env, name, length) && (*env)[length] == '=')
            return *env + length + 1;
    return NULL;
}

static void execute(char **argv, char **env, int why) {
    static char *none[] = {NULL};
    signal(SIGPIPE, SIG_DFL);
    sigset_t all;
    sigemptyset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    char *path = lookup(env, "PATH");
    setenv("PATH", path && *path ? path : PATH_DEFAULT, 1); /* where execvpe looks */
    execvpe(argv[0], argv, env ? env : none);
    report(why, argv[0]);
}

/* What the child says about its failure, or nothing when the program has been started. */
static bool told(int fd, char *why, size_t size) {
    ssize_t got = read(fd, why, size - 1);
    why[got > 0 ? got : 0] = 0;
    return got > 0;
}

pid_t program_start(const struct config *config, int log_pipe[2], char *why, size_t why_size) {
    int failed[2];
    if (pipe2(failed, O_CLOEXEC))
        return -1;
    pid_t pid = group_fork("main");
    if (pid == 0) {
        setsid();
        int null = open("/dev/null", O_RDWR);
        dup2(null, 0), dup2(log_pipe[1], 1), dup2(log_pipe[1], 2);
        if (null > 2)
            close(null);
        become(config, config->cwd, failed[1]);
        execute(config->argv.list, config->env.list, failed[1]);
    }
    close(failed[1]);
    bool bad = pid < 0 || told(failed[0], why, why_size);
    close(failed[0]);
    if (!bad)
        return pid;
    if (pid > 0)
        waitpid(pid, NULL, 0);
    return -1;
}

struct process *process_find(uint16_t channel) {
    for (int i = 0; i < CHANNELS_MAX; i++)
        if (processes[i].used && processes[i].channel == channel)
            return processes + i;
    return NULL;
}

/* The program's environment, and over it what was asked for. */
static char **merged(const struct strings *below, const struct strings *above) {
    char **list = calloc(below->count + above->count + 1, sizeof *list);
    size_t count = 0;
    for (size_t i = 0; i < below->count; i++) {
        size_t name = strcspn(below->list[i], "=");
        bool replaced = false;
        for (size_t j = 0; j < above->count; j++)
            replaced |= !strncmp(below->list[i], above->list[j], name + 1);
        if (!replaced)
            list[count++] = below->list[i];
    }
    for (size_t j = 0; j < above->count; j++)
        list[count++] = above->list[j];
    return list;
}

struct ends {
    int in[2], out[2], err[2], failed[2];
};

static int open_terminal(const struct config *config) {
    struct winsize size = {.ws_row = config->rows, .ws_col = config->columns};
    int fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0)
        ioctl(fd, TIOCSPTLCK, &(int){0}), ioctl(fd, TIOCSWINSZ, &size);
    return fd;
}

static void enter_terminal(int master, int why) {
    int number;
    char name[32];
    ioctl(master, TIOCGPTN, &number);
    snprintf(name, sizeof name, "/dev/pts/%d", number);
    int fd = open(name, O_RDWR);
    if (fd < 0 || ioctl(fd, TIOCSCTTY, 0))
        report(why, name);
    dup2(fd, 0), dup2(fd, 1), dup2(fd, 2);
    if (fd > 2)
        close(fd);
}

static void run_child(const struct config *program, const struct config *config, struct ends *ends, int master, int copy) {
    int why = ends->failed[1];
    setsid();
    if (config->terminal)
        enter_terminal(master, why);
    else
        dup2(ends->in[0], 0), dup2(ends->out[1], 1), dup2(ends->err[1], 2);
    if (copy) {
        close_range(3, ~0u, 0); /* among them the other end of its own stdin */
        _exit(copy == T_COPY_OUT ? tar_write(config->path) : tar_read(config->path));
    }
    become(program, config->cwd ? config->cwd : program->cwd, why);
    execute(config->argv.list, merged(&program->env, &config->env), why);
}

static bool make_ends(struct ends *ends, bool terminal) {
    int (*pipes[4])[2] = {&ends->failed, &ends->in, &ends->out, &ends->err};
    for (int i = 0; i < (terminal ? 1 : 4); i++)
        if (pipe2(*pipes[i], O_CLOEXEC))
            return false;
    return true;
}

static void shut(int fd) {
    if (fd >= 0)
        close(fd);
}

void process_start(uint16_t channel, const struct config *program, const struct config *config, int copy) {
    struct process *process = NULL;
    struct ends ends = {{-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}};
    char why[300] = "";
    for (int i = 0; i < CHANNELS_MAX && !process; i++)
        if (!processes[i].used)
            process = processes + i;
    if (!process || process_find(channel)) {
        frame_failed(channel, FAULT_GUEST, "too many processes at once", 0);
        return;
    }
    int master = config->terminal ? open_terminal(config) : -1;
    if (!make_ends(&ends, config->terminal) || (config->terminal && master < 0)) {
        frame_failed(channel, FAULT_GUEST, "pipe", errno);
        return;
    }
    *process = (struct process){.channel = channel, .in = ends.in[1], .out = ends.out[0], .err = ends.err[0], .window = WINDOW_BYTES, .copying = copy};
    snprintf(process->group, sizeof process->group, "x%u", channel);
    group_make(process->group);
    process->pid = group_fork(process->group);
    if (process->pid == 0)
        run_child(program, config, &ends, master, copy);
    shut(ends.in[0]), shut(ends.out[1]), shut(ends.err[1]), shut(ends.failed[1]);
    bool bad = process->pid < 0 || told(ends.failed[0], why, sizeof why);
    close(ends.failed[0]);
    if (config->terminal) {
        process->terminal = true;
        process->in = process->out = master;
    }
    if (bad) {
        shut(process->in), shut(process->terminal ? -1 : process->out), shut(process->err);
        if (process->pid > 0)
            waitpid(process->pid, NULL, 0);
        group_remove(process->group);
        frame_failed(channel, FAULT_PROGRAM, *why ? why : "cannot start a process", 0);
        return;
    }
    fcntl(process->in, F_SETFL, O_NONBLOCK);
    fcntl(process->out, F_SETFL, O_NONBLOCK);
    if (process->err >= 0)
        fcntl(process->err, F_SETFL, O_NONBLOCK);
    process->used = true;
    frame_send(T_DONE, channel, NULL, 0);
}

static void close_in(struct process *process) {
    if (process->terminal) {
        if (write(process->in, "\4", 1) < 0) /* a terminal's end-of-file is a character */
            perror("terminal");
    } else
        shut(process->in);
    process->in = -1;
}

void process_write(struct process *process, struct bytes data, bool eof) {
    process->pending_eof |= eof;
    if (data.length && process->pending_length + data.length <= WINDOW_BYTES) {
        if (!process->pending)
            process->pending = malloc(WINDOW_BYTES);
        memmove(process->pending, process->pending + process->pending_start, process->pending_length);
        process->pending_start = 0;
        memcpy(process->pending + process->pending_length, data.data, data.length);
        process->pending_length += data.length;
    }
    process_pump(process, POLLOUT, 0, 0);
}

static void feed(struct process *process) {
    uint32_t taken = 0;
    while (process->pending_length && process->in >= 0) {
        ssize_t put = write(process->in, process->pending + process->pending_start, process->pending_length);
        if (put < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        uint32_t count = put < 0 ? process->pending_length : (uint32_t)put; /* nobody reads any more: let it go */
        process->pending_start += count;
        process->pending_length -= count;
        taken += count;
    }
    if (process->in < 0) {
        taken += process->pending_length;
        process->pending_length = 0;
    }
    if (taken) {
        uint8_t credit[4];
        put32(credit, taken);
        frame_send(T_CREDIT, process->channel, credit, 4);
    }
    if (process->pending_eof && !process->pending_length && process->in >= 0)
        close_in(process);
}

static void drain(struct process *process, int *fd, uint8_t type) {
    static uint8_t data[16384];
    while (*fd >= 0 && process->window && channel_room()) {
        size_t wanted = process->window < sizeof data ? process->window : sizeof data;
        ssize_t got = read(*fd, data, wanted);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (got <= 0) {
            if (process->terminal)
                process->in = -1; /* the same descriptor */
            close(*fd);
            *fd = -1;
            return;
        }
        process->window -= (uint32_t)got;
        frame_send(type, process->channel, data, (uint32_t)got);
    }
}

void process_pump(struct process *process, short in, short out, short err) {
    if (in || process->pending_eof)
        feed(process);
    if (out)
        drain(process, &process->out, T_OUT);
    if (err)
        drain(process, &process->err, T_ERR);
    process_finish(process);
}

/* Its end is told when all that it wrote has been sent: what it left running may hold the pipes open, and is killed. */
void process_finish(struct process *process) {
    uint8_t code[4];
    if (!process->used || !process->ended || process->out >= 0 || process->err >= 0)
        return;
    put32(code, (uint32_t)exit_code(process->status));
    frame_send(T_ENDED, process->channel, code, 4);
    process_close(process);
}

void process_reaped(pid_t pid, int status) {
    for (int i = 0; i < CHANNELS_MAX; i++)
        if (processes[i].used && processes[i].pid == pid) {
            processes[i].ended = true;
            processes[i].status = status;
            group_kill(processes[i].group);
            process_pump(processes + i, 0, POLLIN, POLLIN);
        }
}

void process_close(struct process *process) {
    group_kill(process->group);
    if (!process->terminal)
        shut(process->in);
    shut(process->out), shut(process->err);
    free(process->pending);
    if (!process->ended)
        waitpid(process->pid, NULL, 0); /* killed above */
    for (int turn = 0; turn < 50 && !group_remove(process->group); turn++)
        usleep(1000);
    process->used = false;
}
