/* The sender in C: a frame as the documentation of headwater_proto::serial has it. board.c calls it on a machine with an
 * operating system. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

void uart_write(const uint8_t *bytes, size_t len);

static struct { uint8_t bytes[160]; size_t len, code; uint32_t checksum; } frame;

static void put(uint8_t byte) { /* one byte of the payload: checksum, COBS */
    frame.checksum ^= byte;
    for (int bit = 0; bit < 8; bit++)
        frame.checksum = (frame.checksum >> 1) ^ (frame.checksum & 1 ? 0x82F63B78 : 0);
    if (frame.len + 2 > sizeof frame.bytes) /* too long: the agent will refuse it */
        return;
    if (byte != 0)
        frame.bytes[frame.len++] = byte;
    if (byte == 0 || frame.len - frame.code == 255) {
        frame.bytes[frame.code] = (uint8_t)(frame.len - frame.code);
        frame.code = frame.len++;
    }
}

static void number(uint64_t value) {
    for (; value >= 0x80; value >>= 7)
        put((uint8_t)(value | 0x80));
    put((uint8_t)value);
}

static void zigzag(int64_t value) { number(((uint64_t)value << 1) ^ (uint64_t)(value < 0 ? -1 : 0)); }

static void text(const char *text) {
    number(strlen(text));
    while (*text)
        put((uint8_t)*text++);
}

static void raw(const void *value, size_t size) { /* little-endian, as nearly every microcontroller is */
    for (size_t at = 0; at < size; at++)
        put(((const uint8_t *)value)[at]);
}

static void begin(uint8_t seq, uint32_t taken_ms) {
    frame.bytes[0] = 0;
    frame.code = 1;
    frame.len = 2;
    frame.checksum = 0xFFFFFFFF;
    put(1); /* version */
    put(seq);
    number(taken_ms);
    number(0); /* sent at once */
}

static void reading(const char *metric, const char *unit, uint8_t type) {
    text(metric);
    text(unit);
    put(type);
}

static void end(void) {
    uint32_t checksum = ~frame.checksum;
    raw(&checksum, 4);
    frame.bytes[frame.code] = (uint8_t)(frame.len - frame.code);
    if (frame.len < sizeof frame.bytes)
        frame.bytes[frame.len++] = 0;
    uart_write(frame.bytes, frame.len);
}

void send_readings(uint8_t seq, uint32_t uptime_ms, int32_t centidegrees) {
    float level = 1.37f;
    double pi = 3.14159265358979323846;
    begin(seq, uptime_ms);
    reading("tank.temperature", "Cel", 5), put(2), zigzag(centidegrees);
    reading("tank.level", "m", 0), raw(&level, sizeof level);
    reading("tank.pump", "", 3), put(centidegrees % 2 == 0);
    reading("tank.pulses", "", 2), zigzag(centidegrees * INT64_C(1000000007));
    reading("tank.pi", "", 1), raw(&pi, sizeof pi);
    reading("tank.state", "", 4), text("l\xc3\xa4uft");
    end();
}
