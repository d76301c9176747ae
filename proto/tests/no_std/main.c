/* The staticlib from C, as a firmware would: no Rust runtime around it. */
int headwater_goes_round(void);

/* The host's prebuilt `alloc` names it, as it is built for unwinding; with panic = "abort" nothing calls it. */
void rust_eh_personality(void) {}

int main(void) {
    return headwater_goes_round();
}
