// A cuDNN for tests: descriptors with checked attributes, graphs of convolutions, sums and relu by plain loops, on the device
// memory of the fake driver.  Its first way for every graph is not deterministic, and must not be taken.

#include <map>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <vector>

namespace {

constexpr uint64_t TAG = 1ull << 56; // of device addresses
constexpr size_t SIZES[] = { 8, 4, 1, 8, 4, 8, 8, 4, 4, 4, 4, 4, 4, 4, 4, 8 }; // of attributes, by their type
struct Desc {
    int kind;
    bool finished;
    std::map<int, std::vector<unsigned char>> attributes;
    std::map<int, int> types;
    int way = -1; // of configurations, engines and plans
    const Desc *graph = nullptr; // of configurations and plans
};
int handles, objects, convolutions, fused;

template <class T> std::vector<T> values(const Desc *d, int attribute)
{
    std::vector<T> made;
    const auto found = d->attributes.find(attribute);
    if (found == d->attributes.end()) return made;
    made.resize(found->second.size() / sizeof(T));
    memcpy(made.data(), found->second.data(), found->second.size());
    return made;
}
template <class T> T value(const Desc *d, int attribute)
{
    const std::vector<T> all = values<T>(d, attribute);
    return all.empty() ? T() : all[0];
}

// What a kind must have before it is finished.
const std::map<int, std::vector<int>> NEEDED = {
    { 0, { 0, 1 } }, { 1, { 100, 101, 102, 103, 104, 105, 106 } }, { 4, { 200, 201 } }, { 5, { 400, 401 } },
    { 10, { 700, 701, 702, 703, 704, 705 } }, { 13, { 750, 751, 753 } }, { 15, { 800, 801 } }, { 16, { 1000, 1001, 1003 } },
    { 17, { 900, 901, 902, 903, 906, 907 } },
};

float widen(int type, const unsigned char *base, int64_t at)
{
    if (type == 0) return ((const float *)base)[at];
    const uint16_t bits = ((const uint16_t *)base)[at];
    uint32_t word = (uint32_t)bits << 16; // bf16
    if (type == 2) { // f16, no subnormal numbers in these tests
        const uint32_t sign = bits >> 15, exponent = bits >> 10 & 31, fraction = bits & 1023;
        word = sign << 31 | (exponent ? (exponent + 112) << 23 | fraction << 13 : 0);
    }
    float x;
    memcpy(&x, &word, 4);
    return x;
}

struct Tensor {
    int64_t id;
    int type;
    std::vector<int64_t> sizes, steps;
    bool is_virtual;
    int64_t count() const { return sizes[0] * sizes[1] * sizes[2] * sizes[3]; }
};
Tensor tensor(const Desc *d)
{
    return { value<int64_t>(d, 906), value<int>(d, 901), values<int64_t>(d, 902), values<int64_t>(d, 903), value<unsigned char>(d, 907) != 0 };
}

// All values of a run: dense [n][channel][height][width].
struct Run {
    std::map<int64_t, const unsigned char *> memory;
    std::map<int64_t, std::vector<float>> made;

    bool read(const Tensor &t, std::vector<float> &all)
    {
        if (t.is_virtual) return all = made[t.id], (int64_t)all.size() == t.count();
        if (!memory.count(t.id)) return false;
        for (int64_t n = 0; n < t.sizes[0]; n++)
            for (int64_t c = 0; c < t.sizes[1]; c++)
                for (int64_t y = 0; y < t.sizes[2]; y++)
                    for (int64_t x = 0; x < t.sizes[3]; x++)
                        all.push_back(widen(t.type, memory[t.id], n * t.steps[0] + c * t.steps[1] + y * t.steps[2] + x * t.steps[3]));
        return true;
    }
    bool write(const Tensor &t, const std::vector<float> &all)
    {
        if (t.is_virtual) return made[t.id] = all, true;
        if (!memory.count(t.id) || t.type != 0) return false;
        size_t k = 0;
        for (int64_t n = 0; n < t.sizes[0]; n++)
            for (int64_t c = 0; c < t.sizes[1]; c++)
                for (int64_t y = 0; y < t.sizes[2]; y++)
                    for (int64_t x = 0; x < t.sizes[3]; x++)
                        ((float *)memory[t.id])[n * t.steps[0] + c * t.steps[1] + y * t.steps[2] + x * t.steps[3]] = all[k++];
        return true;
    }
};

bool convolve(Run &run, const Desc *op)
{
    const Desc *const how = value<Desc *>(op, 702);
    const Tensor x = tensor(value<Desc *>(op, 704)), w = tensor(value<Desc *>(op, 703)), y = tensor(value<Desc *>(op, 705));
    const auto strides = values<int64_t>(how, 103), dilations = values<int64_t>(how, 102);
    const auto before = values<int64_t>(how, 105), behind = values<int64_t>(how, 104);
    bool fits = value<int>(how, 101) == 1 && value<int>(how, 100) == 0 && value<int64_t>(how, 106) == 2 && value<float>(op, 700) == 1
        && value<float>(op, 701) == 0 && x.sizes[1] == w.sizes[1] && y.sizes[1] == w.sizes[0] && x.sizes[0] == y.sizes[0];
    for (int d = 0; d < 2; d++) {
        const int64_t room = x.sizes[2 + d] + before[d] + behind[d] - ((w.sizes[2 + d] - 1) * dilations[d] + 1);
        fits = fits && room >= 0 && room / strides[d] + 1 == y.sizes[2 + d];
    }
    std::vector<float> image, weights, sums;
    if (!fits || !run.read(x, image) || !run.read(w, weights)) return false;
    for (int64_t n = 0; n < y.sizes[0]; n++)
        for (int64_t o = 0; o < y.sizes[1]; o++)
            for (int64_t i = 0; i < y.sizes[2]; i++)
                for (int64_t j = 0; j < y.sizes[3]; j++) {
                    double sum = 0;
                    for (int64_t c = 0; c < w.sizes[1]; c++)
                        for (int64_t p = 0; p < w.sizes[2]; p++)
                            for (int64_t q = 0; q < w.sizes[3]; q++) {
                                const int64_t r = i * strides[0] + p * dilations[0] - before[0];
                                const int64_t s = j * strides[1] + q * dilations[1] - before[1];
                                if (r < 0 || s < 0 || r >= x.sizes[2] || s >= x.sizes[3]) continue;
                                sum += (double)image[((n * x.sizes[1] + c) * x.sizes[2] + r) * x.sizes[3] + s]
                                    * (double)weights[((o * w.sizes[1] + c) * w.sizes[2] + p) * w.sizes[3] + q];
                            }
                    sums.push_back((float)sum);
                }
    convolutions++;
    return run.write(y, sums);
}

bool pointwise(Run &run, const Desc *op)
{
    const int mode = value<int>(value<Desc *>(op, 750), 0);
    const Tensor x = tensor(value<Desc *>(op, 751)), y = tensor(value<Desc *>(op, 753));
    std::vector<float> all, more;
    if (!run.read(x, all)) return false;
    const int64_t area = x.sizes[2] * x.sizes[3];
    if (mode == 0) {
        const Tensor b = tensor(value<Desc *>(op, 752));
        if (!run.read(b, more)) return false;
        const bool per_channel = b.count() == x.sizes[1] && b.sizes[1] == x.sizes[1];
        if (!per_channel && b.count() != x.count()) return false;
        for (size_t n = 0; n < all.size(); n++) all[n] += more[per_channel ? n / (size_t)area % (size_t)x.sizes[1] : n];
    } else if (mode == 100) {
        for (float &v : all) v = v > 0 ? v : 0;
    } else {
        return false;
    }
    fused++;
    return run.write(y, all);
}

} // namespace

extern "C" {
int fake_objects(void) { return objects + handles; }
int fake_convolutions(void) { return convolutions; }
int fake_fused(void) { return fused; }

int cudnnCreate(void **handle) { return handles++, *handle = &handles, 0; }
int cudnnDestroy(void *) { return handles--, 0; }
int cudnnSetStream(void *handle, void *) { return handle != &handles; }
int cudnnBackendCreateDescriptor(int kind, void **made)
{
    objects++;
    *made = new Desc{ kind, false, {}, {} };
    return 0;
}
int cudnnBackendDestroyDescriptor(void *made) { return delete (Desc *)made, objects--, 0; }
int cudnnBackendSetAttribute(void *made, int attribute, int type, int64_t count, const void *given)
{
    Desc *const d = (Desc *)made;
    if (d->finished || type < 0 || type > 15 || count < 1) return 2000;
    if (type == 15)
        for (int64_t n = 0; n < count; n++)
            if (!((Desc *const *)given)[n]->finished && ((Desc *const *)given)[n]->kind != 3) return 2001;
    const unsigned char *const bytes = (const unsigned char *)given;
    d->attributes[attribute].assign(bytes, bytes + (size_t)count * SIZES[type]);
    d->types[attribute] = type;
    return 0;
}
int cudnnBackendGetAttribute(void *made, int attribute, int, int64_t room, int64_t *count, void *given)
{
    Desc *const d = (Desc *)made;
    if (attribute == 202 && room >= 2 && d->finished) { // two ways
        for (int n = 0; n < 2; n++) {
            ((Desc **)given)[n]->way = n;
            ((Desc **)given)[n]->graph = value<Desc *>(d, 201);
        }
        return *count = 2, 0;
    }
    if (attribute == 300) return ((Desc **)given)[0]->way = d->way, *count = 1, 0;
    if (attribute == 1303) { // the first one is not deterministic
        int n = 0;
        if (d->way == 0) ((int *)given)[n++] = 4;
        return *count = n, 0;
    }
    if (attribute == 402) return *(int64_t *)given = 512, *count = 1, 0;
    return 2000;
}
int cudnnBackendFinalize(void *made)
{
    Desc *const d = (Desc *)made;
    const auto needed = NEEDED.find(d->kind);
    if (needed != NEEDED.end())
        for (int attribute : needed->second)
            if (!d->attributes.count(attribute)) return 2002;
    if (d->kind == 5) d->way = value<Desc *>(d, 401)->way, d->graph = value<Desc *>(d, 401)->graph;
    d->finished = true;
    return 0;
}
} // extern "C"

extern "C" int cudnnBackendExecute(void *handle, void *plan, void *given)
{
    const Desc *const pack = (const Desc *)given, *const p = (const Desc *)plan;
    if (handle != &handles || p->way != 1 || !p->finished || !pack->finished) return 3000;
    if (!((uint64_t)value<void *>(pack, 1003) & TAG)) return 3001;
    Run run;
    const auto ids = values<int64_t>(pack, 1000);
    const auto pointers = values<uint64_t>(pack, 1001);
    for (size_t n = 0; n < ids.size(); n++) run.memory[ids[n]] = (const unsigned char *)(pointers[n] & ~TAG);
    for (const Desc *op : values<Desc *>(p->graph, 801))
        if (!(op->kind == 10 ? convolve(run, op) : pointwise(run, op))) return 3002;
    return 0;
}
