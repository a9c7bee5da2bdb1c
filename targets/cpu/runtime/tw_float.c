/* The floating-point environment of generated code: rounding to nearest, subnormal numbers, no traps, whatever the caller has set,
 * so that results depend on neither it nor on which thread computes what. */
#include "tw_runtime.h"

#if defined(__x86_64__) || defined(__i386__)
#define FLAGS 0x3fu      /* sticky: not part of the environment */
#define ORDINARY 0x1f80u /* all traps masked */

uint64_t tw_float_enter(void)
{
    uint32_t state, ordinary = ORDINARY;
    __asm__ __volatile__("stmxcsr %0" : "=m"(state));
    if ((state & ~FLAGS) == ORDINARY) {
        return 0;
    }
    __asm__ __volatile__("ldmxcsr %0" : : "m"(ordinary) : "memory");
    return (uint64_t)1 << 32 | state;
}

void tw_float_leave(uint64_t state)
{
    const uint32_t before = (uint32_t)state;
    if (state) {
        __asm__ __volatile__("ldmxcsr %0" : : "m"(before) : "memory");
    }
}
#elif defined(__aarch64__)
#define CHANGES 0x07ffff07u /* half precision, default NaN, flushing, rounding, traps */

uint64_t tw_float_enter(void)
{
    uint64_t state;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(state));
    if (state & CHANGES) {
        __asm__ __volatile__("msr fpcr, %0" : : "r"((uint64_t)0) : "memory");
    }
    return state & CHANGES;
}

void tw_float_leave(uint64_t state)
{
    if (state) {
        __asm__ __volatile__("msr fpcr, %0" : : "r"(state) : "memory");
    }
}
#elif defined(__riscv) && defined(__riscv_flen)
uint64_t tw_float_enter(void)
{
    uint64_t rounding;
    __asm__ __volatile__("fsrmi %0, 0" : "=r"(rounding) : : "memory");
    return rounding;
}

void tw_float_leave(uint64_t rounding)
{
    if (rounding) {
        __asm__ __volatile__("fsrm %0" : : "r"(rounding) : "memory");
    }
}
#else
uint64_t tw_float_enter(void)
{
    return 0;
}

void tw_float_leave(uint64_t state)
{
    (void)state;
}
#endif
