/* A guest without Linux: what a test needs to drive a real Firecracker where its KVM runs no Linux guest. It is a kernel image
   (ELF, 64-bit boot protocol) that polls a virtio vsock device and speaks the agent protocol: HELLO, CONFIG, RUN, PING,
   SIGNAL (ends it, by a reset), IDENTITY. "RUN" writes the first argument to the serial line and counts there, once a PING.

   All of it runs in ring 0, without interrupts and without any instruction that an emulator might lack: no SSE, no atomics. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

static inline void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static void say(const char *text) {
    while (*text)
        out8(0x3f8, (u8)*text++);
}
static void say_bytes(const u8 *data, u32 length) {
    while (length--)
        out8(0x3f8, *data++);
}
void *memcpy(void *to, const void *from, unsigned long length) {
    u8 *t = to;
    const u8 *f = from;
    while (length--)
        *t++ = *f++;
    return to;
}
void *memset(void *to, int value, unsigned long length) {
    u8 *t = to;
    while (length--)
        *t++ = (u8)value;
    return to;
}

/* virtio over mmio, version 2 */
enum { R_MAGIC = 0, R_VERSION = 4, R_DEVICE = 8, R_FEATURES = 0x10, R_FEATURES_SEL = 0x14, R_DRIVER = 0x20, R_DRIVER_SEL = 0x24,
       R_QUEUE = 0x30, R_QUEUE_MAX = 0x34, R_QUEUE_SIZE = 0x38, R_READY = 0x44, R_NOTIFY = 0x50, R_ISR = 0x60, R_ACK = 0x64,
       R_STATUS = 0x70, R_DESC = 0x80, R_AVAIL = 0x90, R_USED = 0xa0, R_CONFIG = 0x100 };
enum { QUEUE = 16, PACKET_BYTES = 4096 };

struct desc { u64 address; u32 length; u16 flags, next; };
struct avail { u16 flags, index, ring[QUEUE], event; };
struct used { u16 flags, index; struct { u32 id, length; } ring[QUEUE]; u16 event; };
struct queue {
    struct desc desc[QUEUE] __attribute__((aligned(16)));
    struct avail avail __attribute__((aligned(4)));
    struct used used __attribute__((aligned(4)));
    u16 seen;
} __attribute__((aligned(4096)));

static struct queue queues[3]; /* received, sent, events */
static u8 packets[2][QUEUE][PACKET_BYTES] __attribute__((aligned(4096)));
static u8 events[QUEUE][8];
static volatile u32 *device;

static u32 get(u32 at) { return device[at / 4]; }
static void set(u32 at, u32 value) { device[at / 4] = value; }
static void barrier(void) { __asm__ volatile("" : : : "memory"); }

static void give(int queue, u16 id, void *data, u32 length, int writable) {
    struct queue *q = queues + queue;
    q->desc[id] = (struct desc){(u64)data, length, writable ? 2 : 0, 0};
    q->avail.ring[q->avail.index % QUEUE] = id;
    barrier();
    q->avail.index++;
    barrier();
    set(R_NOTIFY, (u32)queue);
}

static void set_queue(int number) {
    struct queue *q = queues + number;
    set(R_QUEUE, (u32)number);
    set(R_QUEUE_SIZE, QUEUE);
    set(R_DESC, (u32)(u64)q->desc), set(R_DESC + 4, 0);
    set(R_AVAIL, (u32)(u64)&q->avail), set(R_AVAIL + 4, 0);
    set(R_USED, (u32)(u64)&q->used), set(R_USED + 4, 0);
    set(R_READY, 1);
}

static int find_device(const char *line) {
    const char *key = "virtio_mmio.device=4K@0x";
    for (; *line; line++) {
        int i = 0;
        while (key[i] && line[i] == key[i])
            i++;
        if (key[i])
            continue;
        u64 address = 0;
        for (line += i; (*line >= '0' && *line <= '9') || (*line >= 'a' && *line <= 'f'); line++)
            address = address << 4 | (u64)(*line <= '9' ? *line - '0' : *line - 'a' + 10);
        device = (volatile u32 *)address;
        if (get(R_MAGIC) == 0x74726976 && get(R_DEVICE) == 19)
            return 1;
        line--;
    }
    return 0;
}

static void start_device(void) {
    set(R_STATUS, 0), set(R_STATUS, 1), set(R_STATUS, 3);
    set(R_DRIVER_SEL, 0), set(R_DRIVER, 0);
    set(R_DRIVER_SEL, 1), set(R_DRIVER, 1); /* version 1 */
    set(R_STATUS, 11);
    for (int i = 0; i < 3; i++)
        set_queue(i);
    set(R_STATUS, 15);
    for (u16 i = 0; i < QUEUE; i++) {
        give(0, i, packets[0][i], PACKET_BYTES, 1);
        give(2, i, events[i], 8, 1);
    }
}

/* vsock */
struct head {
    u64 from, to;
    u32 from_port, to_port, length;
    u16 type, op;
    u32 flags, room, taken;
} __attribute__((packed));
enum { REQUEST = 1, RESPONSE, RESET, SHUTDOWN, DATA, CREDIT, ASK_CREDIT, PORT = 1024, HEAD = 44, ROOM = 262144 };

static u32 peer_port, taken;
static u64 own_cid;
static int connected;

static u8 *next_packet(void) {
    struct queue *q = queues + 1;
    while ((u16)(q->avail.index - q->used.index) >= QUEUE - 1)
        barrier();
    return packets[1][q->avail.index % QUEUE];
}

static void transmit(u16 op, u32 to_port, u32 length) {
    struct queue *q = queues + 1;
    u16 id = q->avail.index % QUEUE;
    struct head head = {own_cid, 2, PORT, to_port, length, 1, op, 0, ROOM, taken};
    memcpy(packets[1][id], &head, HEAD);
    give(1, id, packets[1][id], HEAD + length, 0);
}

/* the agent protocol */
enum { HELLO = 1, CONFIG, RUN, SIGNAL, PING = 14, EXIT_SEEN, IDENTITY, WELCOME = 64, DONE, FAILED, EXITED = 72, STREAM = 131072 };
static u8 stream[STREAM];
static u32 stream_length, state, pings, seed;
static u8 word[200];
static u32 word_length;

static u32 read32(const u8 *p) { return p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24; }
static void write32(u8 *p, u32 value) {
    for (int i = 0; i < 4; i++)
        p[i] = (u8)(value >> (8 * i));
}
static u32 crc(u32 sum, const u8 *data, u32 length) {
    sum = ~sum;
    while (length--) {
        sum ^= *data++;
        for (int bit = 0; bit < 8; bit++)
            sum = sum & 1 ? 0xedb88320u ^ (sum >> 1) : sum >> 1;
    }
    return ~sum;
}

static void answer(u8 type, u16 channel, const void *payload, u32 length) {
    u8 *at = next_packet() + HEAD;
    memcpy(at, "SKG\1", 4);
    at[4] = type, at[5] = 0, at[6] = (u8)channel, at[7] = (u8)(channel >> 8);
    write32(at + 8, length);
    memcpy(at + 16, payload, length);
    write32(at + 12, crc(crc(0, at, 12), at + 16, length));
    transmit(DATA, peer_port, 16 + length);
}

static void reset(void) {
    for (;;)
        out8(0x64, 0xfe);
}

static void say_number(u32 value) {
    u8 digits[11];
    int at = 11;
    do
        digits[--at] = (u8)('0' + value % 10);
    while (value /= 10);
    say_bytes(digits + at, (u32)(11 - at));
}

/* The first argument is what it says; the first bytes of the entropy are what it was seeded with. */
static void take_fields(const u8 *at, u32 length) {
    while (length >= 6) {
        u32 size = read32(at + 2);
        u16 tag = (u16)(at[0] | at[1] << 8);
        if (size > length - 6)
            return;
        if (tag == 1 && !word_length && size <= sizeof word)
            memcpy(word, at + 6, word_length = size);
        if (tag == 14 && size >= 4)
            seed = read32(at + 6);
        at += 6 + size, length -= 6 + size;
    }
}

static void handle(u8 type, u16 channel, const u8 *payload, u32 length) {
    u8 text[24];
    memset(text, 0, sizeof text);
    switch (type) {
    case HELLO:
        memcpy(text, payload, 16);
        text[16] = (u8)state;
        answer(WELCOME, 0, text, 24);
        break;
    case CONFIG: take_fields(payload, length); break;
    case IDENTITY: take_fields(payload, length), answer(DONE, channel, "", 0); break;
    case RUN:
        say_bytes(word, word_length), say("\n");
        state = 1;
        answer(DONE, channel, text, 4);
        break;
    case PING:
        say("ping "), say_number(++pings), say(" seed "), say_number(seed), say("\n");
        answer(DONE, channel, "", 0);
        break;
    case SIGNAL:
        text[0] = (u8)(128 + payload[0]);
        answer(EXITED, 0, text, 6);
        break;
    case EXIT_SEEN: reset(); break;
    default:
        if (channel)
            answer(FAILED, channel, "\2not in this guest", 18);
    }
}

static void cut(void) {
    u32 at = 0;
    while (stream_length - at >= 16) {
        u32 length = read32(stream + at + 8);
        if (length > 65536) {
            at++;
            continue;
        }
        if (stream_length - at < 16 + length)
            break;
        handle(stream[at + 4], (u16)(stream[at + 6] | stream[at + 7] << 8), stream + at + 16, length);
        at += 16 + length;
    }
    for (u32 i = at; i < stream_length; i++)
        stream[i - at] = stream[i];
    stream_length -= at;
}

static void take(const struct head *head, const u8 *data) {
    if (head->type != 1 || head->to_port != PORT) {
        next_packet();
        transmit(RESET, head->from_port, 0);
    } else if (head->op == REQUEST) {
        connected = 1, peer_port = head->from_port, taken = 0, stream_length = 0;
        next_packet();
        transmit(RESPONSE, peer_port, 0);
    } else if (!connected || head->from_port != peer_port) {
        return;
    } else if (head->op == DATA && stream_length + head->length <= STREAM) {
        memcpy(stream + stream_length, data, head->length);
        stream_length += head->length;
        taken += head->length;
        cut();
    } else if (head->op == ASK_CREDIT) {
        next_packet();
        transmit(CREDIT, peer_port, 0);
    } else if (head->op == SHUTDOWN || head->op == RESET) {
        connected = 0;
        if (head->op == SHUTDOWN) {
            next_packet();
            transmit(RESET, head->from_port, 0);
        }
    }
}

/* The boot protocol maps the first GiB; the devices are in the fourth. */
static void map_devices(void) {
    static u64 directory[512] __attribute__((aligned(4096)));
    u64 root;
    __asm__ volatile("mov %%cr3, %0" : "=r"(root));
    u64 *second = (u64 *)(*(u64 *)(root & ~0xfffull) & ~0xfffull);
    for (u64 i = 0; i < 512; i++)
        directory[i] = (0xc0000000ull + (i << 21)) | 0x83;
    second[3] = (u64)directory | 3;
    __asm__ volatile("mov %0, %%cr3" : : "r"(root) : "memory");
}

void run(const u8 *boot) {
    map_devices();
    if (!find_device((const char *)(u64)read32(boot + 0x228))) {
        say("no vsock device\n");
        reset();
    }
    start_device();
    own_cid = get(R_CONFIG);
    for (;;) {
        struct queue *received = queues, *event = queues + 2;
        barrier();
        if (received->seen != received->used.index) {
            u16 id = (u16)received->used.ring[received->seen++ % QUEUE].id;
            take((struct head *)packets[0][id], packets[0][id] + HEAD);
            give(0, id, packets[0][id], PACKET_BYTES, 1);
        }
        if (event->seen != event->used.index) { /* after a load: all connections are gone, and hosts wait until this is taken */
            u16 id = (u16)event->used.ring[event->seen++ % QUEUE].id;
            connected = 0;
            own_cid = get(R_CONFIG);
            give(2, id, events[id], 8, 1);
        }
        if (get(R_ISR))
            set(R_ACK, get(R_ISR));
    }
}

__asm__(".section .start, \"ax\"\n.globl _start\n_start: lea stack_top(%rip), %rsp\nmov %rsi, %rdi\ncall run\n1: hlt\njmp 1b\n"
        ".bss\n.balign 16\n.skip 16384\nstack_top:\n.text\n");
