/* What the host asks for, out of tagged fields: u16 tag, u32 length, bytes; little-endian. */
#include "guest.h"

#include <stdlib.h>
#include <string.h>

uint32_t get32(const uint8_t *p) { return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24; }

void put32(uint8_t *p, uint32_t value) {
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get64(const uint8_t *p) { return get32(p) | (uint64_t)get32(p + 4) << 32; }

static char *copy(struct bytes field) {
    char *text = malloc(field.length + 1);
    memcpy(text, field.data, field.length);
    text[field.length] = 0;
    return text;
}

static void add(struct strings *strings, struct bytes field) {
    strings->list = realloc(strings->list, (strings->count + 2) * sizeof *strings->list);
    strings->list[strings->count++] = copy(field);
    strings->list[strings->count] = NULL;
}

static void clear(struct strings *strings) {
    for (size_t i = 0; i < strings->count; i++)
        free(strings->list[i]);
    free(strings->list);
    *strings = (struct strings){0};
}

void config_clear(struct config *config) {
    clear(&config->argv);
    clear(&config->env);
    clear(&config->dns);
    free(config->cwd);
    free(config->path);
    *config = (struct config){0};
}

static void set_text(char **place, struct bytes field) {
    free(*place);
    *place = copy(field);
}

static bool take(struct config *config, unsigned tag, struct bytes field) {
    static const uint8_t wanted[] = {
        [G_USER] = 8, [G_GROUP] = 4, [G_WRITABLE_MIB] = 4, [G_READ_ONLY] = 1, [G_MEMORY] = 8, [G_PIDS] = 4, [G_CLOCK] = 8,
        [G_MAC] = 6, [G_ADDRESS] = 5, [G_GATEWAY] = 4, [G_GATEWAY_MAC] = 6, [G_TERMINAL] = 4,
    };
    const uint8_t *d = field.data;
    if (tag < sizeof wanted && wanted[tag] && field.length != wanted[tag])
        return false;
    switch (tag) {
    case G_ARG: add(&config->argv, field); break;
    case G_ENV: add(&config->env, field); break;
    case G_DNS: add(&config->dns, field); break;
    case G_CWD: set_text(&config->cwd, field); break;
    case G_PATH: set_text(&config->path, field); break;
    case G_USER: config->uid = get32(d); config->gid = get32(d + 4); break;
    case G_GROUP:
        if (config->group_count < 64)
            config->groups[config->group_count++] = get32(d);
        break;
    case G_HOSTNAME:
        if (field.length >= sizeof config->hostname)
            return false;
        memset(config->hostname, 0, sizeof config->hostname);
        memcpy(config->hostname, d, field.length);
        break;
    case G_WRITABLE_MIB: config->writable_mib = get32(d); break;
    case G_READ_ONLY: config->read_only = d[0]; break;
    case G_MEMORY: config->memory_bytes = get64(d); break;
    case G_PIDS: config->pids_max = get32(d); break;
    case G_CLOCK: config->clock_ns = get64(d); break;
    case G_MAC: memcpy(config->mac, d, 6); config->has_network = true; break;
    case G_ADDRESS: memcpy(&config->address, d, 4); config->prefix = d[4]; break;
    case G_GATEWAY: memcpy(&config->gateway, d, 4); break;
    case G_GATEWAY_MAC: memcpy(config->gateway_mac, d, 6); break;
    case G_TERMINAL:
        config->terminal = true;
        config->rows = (uint16_t)(d[0] | d[1] << 8);
        config->columns = (uint16_t)(d[2] | d[3] << 8);
        break;
    case G_ENTROPY: system_entropy(field); break;
    case G_FILE:
        if (field.length < 6)
            return false;
        files_keep(field);
        break;
    case G_FILE_DATA: files_append(field); break;
    default: return false; /* a host that is newer than this guest */
    }
    return true;
}

bool config_read(struct config *config, struct bytes payload) {
    while (payload.length >= 6) {
        unsigned tag = payload.data[0] | payload.data[1] << 8;
        uint32_t length = get32(payload.data + 2);
        if (length > payload.length - 6 || !take(config, tag, (struct bytes){payload.data + 6, length}))
            return false;
        payload.data += 6 + length;
        payload.length -= 6 + length;
    }
    return payload.length == 0;
}
