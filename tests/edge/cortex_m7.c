/* What starts main() on a Cortex-M7 without any library, and takes its result out of the emulator. */
#include <stddef.h>
#include <stdint.h>

int main(void);

extern uint32_t stack_top, data_begin, data_end, data_source, bss_begin, bss_end;

void *memset(void *target, int value, size_t count) {
    for (size_t i = 0; i < count; i++) {
        ((volatile unsigned char *)target)[i] = (unsigned char)value;
    }
    return target;
}

void *memcpy(void *target, const void *source, size_t count) {
    for (size_t i = 0; i < count; i++) {
        ((volatile unsigned char *)target)[i] = ((const unsigned char *)source)[i];
    }
    return target;
}

/* Semihosting: operation 0x18 ends the emulator, with exit code 0 for this reason and 1 for any other. */
static void leave(int code) {
    register uint32_t operation __asm__("r0") = 0x18;
    register uint32_t reason __asm__("r1") = code == 0 ? 0x20026 : 0x20023;
    __asm__ volatile("bkpt 0xab" : : "r"(operation), "r"(reason) : "memory");
    for (;;) {
    }
}

static void fault(void) { leave(1); }

void reset(void) {
    *(volatile uint32_t *)0xe000ed88 |= 0xfu << 20; /* CPACR: the floating-point unit is off at first */
    __asm__ volatile("dsb\n isb");
    for (uint32_t *from = &data_source, *to = &data_begin; to < &data_end;) {
        *to++ = *from++;
    }
    for (uint32_t *to = &bss_begin; to < &bss_end;) {
        *to++ = 0;
    }
    leave(main());
}

__attribute__((section(".vectors"), used)) static const uintptr_t VECTORS[16] = {
    (uintptr_t)&stack_top, (uintptr_t)reset, (uintptr_t)fault, (uintptr_t)fault, (uintptr_t)fault, (uintptr_t)fault,
    (uintptr_t)fault,
};
