/* The board around the sender, for a machine with an operating system: the UART is standard output.
 * Usage: board FRAMES UPTIME_MS STEP_MS PAUSE_MS */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

void send_readings(uint8_t seq, uint32_t uptime_ms, int32_t centidegrees);

void uart_write(const uint8_t *bytes, size_t len) {
    while (len > 0) {
        ssize_t written = write(1, bytes, len);
        if (written < 0)
            exit(1);
        bytes += written;
        len -= (size_t)written;
    }
}

/* The host's prebuilt `alloc` names it, as it is built for unwinding; with panic = "abort" nothing calls it. */
void rust_eh_personality(void) {}

int main(int count, char **arguments) {
    if (count != 5)
        return 2;
    for (int frame = 0; frame < atoi(arguments[1]); frame++) {
        send_readings((uint8_t)frame, (uint32_t)(atoll(arguments[2]) + (long long)frame * atoi(arguments[3])), 2000 + frame);
        usleep((useconds_t)atoi(arguments[4]) * 1000);
    }
    return 0;
}
