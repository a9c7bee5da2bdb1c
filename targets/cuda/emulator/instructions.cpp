/* Asynchronous copies, matrix loads and matrix products, with the register layouts of the PTX manual.
 *
 * A copy reads its source when it is started and fills its destination with ones; the data arrive when the thread waits for
 * the group of the copy.  Products of a matrix instruction are exact; their sum is rounded once.
 */
#include "emulator.h"

namespace emulator {

namespace {

float element(int kind, uint32_t word, int part)
{
    const uint16_t half = (uint16_t)(word >> 16 * part);
    return kind == 0 ? half_to_float({ half }) : bfloat_to_float({ half });
}

/* f32 to tf32: ten bits of fraction, ties away from zero. */
double tf32(uint32_t word)
{
    word = (word + 0x1000u) & ~0x1fffu;
    float value;
    memcpy(&value, &word, 4);
    return value;
}

int byte_of(uint32_t word, int part, bool is_signed)
{
    const uint32_t byte = word >> 8 * part & 255u;
    return is_signed ? (int)(int8_t)byte : (int)byte;
}

/* The operands that the threads of the warp show: a in words 0..3, b in words 4..5. */
uint32_t word_of_a(int group, int member, int word) { return neighbour(group * 4 + member).slot[word]; }
uint32_t word_of_b(int group, int member, int word) { return neighbour(group * 4 + member).slot[4 + word]; }

double dot16(int kind, int row, int column)
{
    double sum = 0;
    for (int k = 0; k < 16; k++) {
        const int member = k % 8 / 2, high = k / 8;
        sum += (double)element(kind, word_of_a(row % 8, member, row / 8 + 2 * high), k % 2)
            * (double)element(kind, word_of_b(column, member, high), k % 2);
    }
    return sum;
}

double dot_tf32(int row, int column)
{
    double sum = 0;
    for (int k = 0; k < 8; k++) {
        sum += tf32(word_of_a(row % 8, k % 4, row / 8 + 2 * (k / 4))) * tf32(word_of_b(column, k % 4, k / 4));
    }
    return sum;
}

int dot_bytes(bool signed_a, int row, int column)
{
    int sum = 0;
    for (int k = 0; k < 32; k++) {
        const int member = k % 16 / 4, high = k / 16;
        sum += byte_of(word_of_a(row % 8, member, row / 8 + 2 * high), k % 4, signed_a)
            * byte_of(word_of_b(column, member, high), k % 4, true);
    }
    return sum;
}

} // namespace

} // namespace emulator

using namespace emulator;

extern "C" {

void emulator_copy_start(void *to, const void *from, int bytes, int condition)
{
    Thread &thread = launch.threads[launch.current];
    if (!in_shared(to, (size_t)bytes)) {
        fail("cp.async writes outside of shared memory");
    }
    Copy copy = { (unsigned char *)to, {}, bytes, thread.groups };
    if (condition) {
        check_access(from, (size_t)bytes, false);
        memcpy(copy.data, from, (size_t)bytes);
    }
    check_access(to, (size_t)bytes, true);
    memset(to, 0xff, (size_t)bytes);
    thread.copies.push_back(copy);
}

void emulator_copy_commit(void)
{
    launch.threads[launch.current].groups++;
}

void emulator_copy_wait(int groups)
{
    Thread &thread = launch.threads[launch.current];
    std::vector<Copy> left;
    for (const Copy &copy : thread.copies) {
        /* Group g is complete when at most `groups` later ones are open; the group that is not closed yet stays. */
        if (copy.group >= thread.groups - groups) {
            left.push_back(copy);
            continue;
        }
        check_access(copy.to, (size_t)copy.bytes, true);
        memcpy(copy.to, copy.data, (size_t)copy.bytes);
    }
    thread.copies.swap(left);
}

void emulator_load_matrices(void *tile, const void *row, int count, int transposed, int line)
{
    Thread &thread = launch.threads[launch.current];
    const uint64_t address = (uint64_t)(uintptr_t)row;
    memcpy(thread.slot, &address, sizeof address);
    meet_warp(0xffffffffu, line);
    const int group = lane() / 4, member = lane() % 4;
    for (int matrix = 0; matrix < count; matrix++) {
        uint16_t pair[2];
        for (int part = 0; part < 2; part++) {
            const int r = transposed ? 2 * member + part : group, c = transposed ? group : 2 * member + part;
            uint64_t start;
            memcpy(&start, neighbour(matrix * 8 + r).slot, sizeof start);
            if (start % 16 || !in_shared((void *)(uintptr_t)start, 16)) {
                fail("line %d: row %d of matrix %d is not 16 aligned bytes of shared memory", line, r, matrix);
            }
            const unsigned char *const place = (const unsigned char *)(uintptr_t)start + 2 * c;
            check_access(place, 2, false);
            memcpy(&pair[part], place, 2);
        }
        memcpy((unsigned char *)tile + 4 * matrix, pair, 4);
    }
    meet_warp(0xffffffffu, -line);
}

void emulator_multiply(int kind, void *d, const void *a, const void *b, int line)
{
    Thread &thread = launch.threads[launch.current];
    memcpy(thread.slot, a, 16);
    memcpy(thread.slot + 4, b, 8);
    meet_warp(0xffffffffu, line);
    const int group = lane() / 4, member = lane() % 4;
    for (int n = 0; n < 4; n++) {
        const int row = group + 8 * (n / 2), column = 2 * member + n % 2;
        if (kind >= 3) {
            int *const sum = (int *)d + n;
            *sum = (int)((unsigned)*sum + (unsigned)dot_bytes(kind == 3, row, column));
        } else {
            float *const sum = (float *)d + n;
            *sum = (float)((double)*sum + (kind == 2 ? dot_tf32(row, column) : dot16(kind, row, column)));
        }
    }
    meet_warp(0xffffffffu, -line);
}

/* The left operand has two of any four elements along k, in the layout of m16n8k16; threads 4 g + h, h < 2, show where those of
 * rows g (low half) and g + 8 stand among 16 k's: four bits for each four, the places of both, which must increase. */
void emulator_multiply_sparse(int kind, float *d, const void *a, const void *b, const unsigned *where, int line)
{
    Thread &thread = launch.threads[launch.current];
    memcpy(thread.slot, a, 16);
    memcpy(thread.slot + 4, b, 16);
    thread.slot[8] = *where;
    meet_warp(0xffffffffu, line);
    const int group = lane() / 4, member = lane() % 4;
    for (int n = 0; n < 4; n++) {
        const int row = group + 8 * (n / 2), column = 2 * member + n % 2;
        double sum = (double)d[n];
        for (int k = 0; k < 16; k++) { /* of the elements that are there */
            const uint32_t word = neighbour(row % 8 * 4 + k / 8).slot[8] >> 16 * (row / 8);
            const int four = k / 2, places = (int)(word >> four % 4 * 4 & 15u);
            if ((places & 3) >= places >> 2) {
                fail("line %d: the places %d and %d of row %d in the sparse operand do not increase", line, places & 3,
                     places >> 2, row);
            }
            const int at = four * 4 + (k % 2 ? places >> 2 : places & 3);
            const float x = element(kind, word_of_a(row % 8, k % 8 / 2, row / 8 + 2 * (k / 8)), k % 2);
            const float y = element(kind, neighbour(column * 4 + at % 8 / 2).slot[4 + at / 8], at % 2);
            sum += (double)x * (double)y;
        }
        d[n] = (float)sum;
    }
    meet_warp(0xffffffffu, -line);
}

/* 64 rows by four warps: this one has 16 of them, and all columns.  A tile begins at an address whose eight rows of 128 bytes
 * fill 1024 bytes, and pieces of 16 bytes are permuted by the row: bits 4..6 of an address are exclusive-or'ed with bits 7..9. */
static float tile_element(int kind, const unsigned char *start, int row, int k)
{
    uintptr_t address = (uintptr_t)start + (uintptr_t)row * 128 + (uintptr_t)k * 2;
    address ^= address >> 3 & 0x70;
    uint16_t half;
    memcpy(&half, (const void *)address, 2);
    return element(kind, half, 0);
}

static void check_tile(const unsigned char *start, int rows, int line)
{
    if ((uintptr_t)start % 1024 >= 128 || (uintptr_t)start % 32) {
        fail("line %d: a tile of the matrix unit does not begin with the first of eight rows", line);
    }
    for (int row = lane(); row < rows; row += WARP) {
        for (int piece = 0; piece < 2; piece++) {
            uintptr_t address = (uintptr_t)start + (uintptr_t)row * 128 + (uintptr_t)piece * 16;
            address ^= address >> 3 & 0x70;
            if (!in_shared((void *)address, 16)) {
                fail("line %d: row %d of a tile of the matrix unit lies outside of shared memory", line, row);
            }
            check_unfenced((void *)address, 16, line);
            check_access((void *)address, 16, false);
        }
    }
}

void emulator_fence_async(void)
{
    launch.threads[launch.current].fences++;
}

void emulator_warpgroup(int kind, int columns, float *d, const void *a, const void *b, int line)
{
    Thread &thread = launch.threads[launch.current];
    if ((launch.current % launch.block_threads / (4 * WARP) + 1) * 4 * WARP > launch.block_threads) {
        fail("line %d: the thread is not in a group of four warps; the block has %d threads", line, launch.block_threads);
    }
    meet_warp(0xffffffffu, line);
    bool known = false;
    for (const Sums &s : thread.sums) {
        known |= s.registers == d;
    }
    if (!known) {
        thread.sums.push_back({ d, std::vector<float>(d, d + columns / 2) });
        memset(d, 0xff, (size_t)columns / 2 * sizeof *d);
    }
    thread.products.push_back({ kind, columns, line, d, (const unsigned char *)a, (const unsigned char *)b,
                                thread.product_groups });
}

void emulator_warpgroup_commit(void)
{
    launch.threads[launch.current].product_groups++;
}

static void finish_product(const Product &p, std::vector<float> &values)
{
    const int warp = launch.current % launch.block_threads / WARP % 4, group = lane() / 4, member = lane() % 4;
    check_tile(p.left, 64, p.line);
    check_tile(p.right, p.columns, p.line);
    for (int n = 0; n < p.columns / 2; n++) {
        const int row = 16 * warp + group + 8 * (n / 2 % 2), column = n / 4 * 8 + 2 * member + n % 2;
        double sum = (double)values[(size_t)n];
        for (int k = 0; k < 16; k++) {
            sum += (double)tile_element(p.kind, p.left, row, k) * (double)tile_element(p.kind, p.right, column, k);
        }
        values[(size_t)n] = (float)sum;
    }
}

/* Products of closed groups but the last `groups` are made; registers that no product is left for get their sums. */
void emulator_warpgroup_wait(int groups)
{
    Thread &thread = launch.threads[launch.current];
    std::vector<Product> left;
    for (const Product &p : thread.products) {
        if (p.group >= thread.product_groups - groups) {
            left.push_back(p);
            continue;
        }
        for (Sums &s : thread.sums) {
            if (s.registers == p.registers) {
                finish_product(p, s.values);
            }
        }
    }
    thread.products.swap(left);
    std::vector<Sums> kept;
    for (const Sums &s : thread.sums) {
        bool busy = false;
        for (const Product &p : thread.products) {
            busy |= p.registers == s.registers;
        }
        if (busy) {
            kept.push_back(s);
        } else {
            memcpy(s.registers, s.values.data(), s.values.size() * sizeof(float));
        }
    }
    thread.sums.swap(kept);
    meet_warp(0xffffffffu, -__LINE__);
}
}
