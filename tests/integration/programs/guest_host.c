/* The guest's frames and archives as a program of the host: `echo` sends back each frame that it takes, on descriptor 0. */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void frame_handle(uint8_t type, uint16_t channel, struct bytes payload) { frame_send(type, channel, payload.data, payload.length); }
const char *wait_for_port(const char *name) { return name; }
uint32_t get32(const uint8_t *p) { return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24; }
void put32(uint8_t *p, uint32_t value) {
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(value >> (8 * i));
}
void make_parents(char *path) { (void)path; }

static int echo(void) {
    channel_fd = 0;
    fcntl(0, F_SETFL, O_NONBLOCK);
    channel_wake();
    for (;;) {
        struct pollfd polled = {0, (short)((channel_room() ? POLLIN : 0) | (channel_wants_write() ? POLLOUT : 0)), 0};
        if (poll(&polled, 1, -1) < 0)
            return 1;
        if (polled.revents & (POLLIN | POLLHUP) && !channel_read())
            return 0;
        channel_flush();
    }
}

int main(int count, char **words) {
    if (count == 2 && !strcmp(words[1], "echo"))
        return echo();
    if (count == 3 && !strcmp(words[1], "write"))
        return tar_write(words[2]);
    if (count == 3 && !strcmp(words[1], "read"))
        return tar_read(words[2]);
    return 2;
}
