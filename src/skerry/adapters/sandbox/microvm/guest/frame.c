/* Frames to and from the host, over a virtio port or a vsock connection: cut, checked, and found again after a broken one. */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

static const uint8_t MAGIC[4] = {'S', 'K', 'G', 1}; /* the last byte is the version */
static uint8_t in[HEADER_BYTES + PAYLOAD_BYTES_MAX];
static size_t in_length;
static uint8_t out[4 * (HEADER_BYTES + PAYLOAD_BYTES_MAX)];
static size_t out_start, out_end;
static bool is_vsock, connected;
static int listener = -1;

int channel_fd = -1;

static uint32_t crc32(uint32_t crc, const uint8_t *data, size_t length) {
    static uint32_t table[256];
    if (!table[1])
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int bit = 0; bit < 8; bit++)
                c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
            table[i] = c;
        }
    crc = ~crc;
    while (length--)
        crc = table[(crc ^ *data++) & 0xff] ^ (crc >> 8);
    return ~crc;
}

void channel_open(bool vsock) {
    is_vsock = vsock;
    if (vsock) {
        struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = VSOCK_PORT};
        listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4))
            perror("vsock");
        return;
    }
    channel_fd = open(wait_for_port("skerry.agent"), O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (channel_fd < 0)
        perror("skerry.agent");
    /* A port without a host side is always "ready": instead of asking again and again, be told by SIGIO. */
    fcntl(channel_fd, F_SETOWN, getpid());
    fcntl(channel_fd, F_SETFL, O_NONBLOCK | O_ASYNC);
    connected = true;
}

int channel_listener(void) { return listener; }

/* A new host takes the place of the old one. */
void channel_accept(void) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (channel_fd >= 0)
        close(channel_fd);
    channel_fd = fd;
    in_length = out_start = out_end = 0;
    connected = true;
}

bool channel_connected(void) { return connected && channel_fd >= 0; }

void channel_wake(void) { connected = true; }

/* Bytes that cannot be a frame are skipped up to the next magic: a host that died in the middle of one leaves such. */
static void cut(void) {
    size_t at = 0;
    while (in_length - at >= HEADER_BYTES) {
        const uint8_t *head = in + at;
        uint32_t length = get32(head + 8);
        if (memcmp(head, MAGIC, 4) || length > PAYLOAD_BYTES_MAX) {
            at++;
            continue;
        }
        if (in_length - at < HEADER_BYTES + length)
            break;
        if (crc32(crc32(0, head, 12), head + HEADER_BYTES, length) != get32(head + 12)) {
            at++;
            continue;
        }
        frame_handle(head[4], (uint16_t)(head[6] | head[7] << 8), (struct bytes){head + HEADER_BYTES, length});
        at += HEADER_BYTES + length;
    }
    memmove(in, in + at, in_length - at);
    in_length -= at;
}

bool channel_read(void) {
    for (int turn = 0; turn < 64; turn++) { /* then the processes have their turn */
        ssize_t got = read(channel_fd, in + in_length, sizeof in - in_length);
        if (got < 0)
            return errno == EAGAIN || errno == EINTR;
        if (got == 0) {
            connected = false;
            in_length = out_start = out_end = 0;
            if (is_vsock) {
                close(channel_fd);
                channel_fd = -1;
            }
            return false;
        }
        in_length += (size_t)got;
        cut();
    }
    return true;
}

void channel_flush(void) {
    while (out_start < out_end && channel_fd >= 0) {
        ssize_t put = write(channel_fd, out + out_start, out_end - out_start);
        if (put <= 0)
            break;
        out_start += (size_t)put;
    }
    if (out_start == out_end)
        out_start = out_end = 0;
}

bool channel_wants_write(void) { return out_end > out_start; }

/* How much payload the next frame may have; the last quarter is kept for answers. */
size_t channel_room(void) {
    size_t used = out_end - out_start, reserve = HEADER_BYTES + PAYLOAD_BYTES_MAX;
    return used + 2 * reserve > sizeof out ? 0 : PAYLOAD_BYTES_MAX;
}

void frame_send(uint8_t type, uint16_t channel, const void *payload, uint32_t length) {
    if (sizeof out - out_end < HEADER_BYTES + length) {
        memmove(out, out + out_start, out_end - out_start);
        out_end -= out_start;
        out_start = 0;
    }
    if (sizeof out - out_end < HEADER_BYTES + length)
        return; /* nobody reads; a host that comes back asks anew */
    uint8_t *head = out + out_end;
    memcpy(head, MAGIC, 4);
    head[4] = type;
    head[5] = 0;
    head[6] = (uint8_t)channel;
    head[7] = (uint8_t)(channel >> 8);
    put32(head + 8, length);
    if (length)
        memcpy(head + HEADER_BYTES, payload, length);
    put32(head + 12, crc32(crc32(0, head, 12), head + HEADER_BYTES, length));
    out_end += HEADER_BYTES + length;
    channel_flush();
}

void frame_failed(uint16_t channel, enum fault fault, const char *what, int error) {
    char text[512];
    int length = snprintf(text + 1, sizeof text - 1, error ? "%s: %s" : "%s", what, error ? strerror(error) : "");
    text[0] = (char)fault;
    if (length > (int)sizeof text - 2)
        length = sizeof text - 2;
    frame_send(T_FAILED, channel, text, 1 + (uint32_t)length);
}
