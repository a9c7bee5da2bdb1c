// A CUDA driver for tests: device memory is memory of the host at tagged addresses, kernels run in the emulator.
//
// It counts calls, can be told to fail, and refuses what a driver would refuse: an address that is not of the device, a
// launch without a current context, a synchronisation while a stream is captured.

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <map>
#include <string>
#include <vector>

namespace {

constexpr uint64_t TAG = 1ull << 56; // of device addresses

struct Region { // of the emulator
    unsigned char *start;
    uint64_t bytes;
    uint32_t element_bytes, written;
    const char *name;
};
typedef int Emulate(const char *, const unsigned *, const unsigned *, size_t, void **, const Region *, int, unsigned, char *,
                    size_t);

struct Function {
    std::string name;
    int parameters;
    unsigned maps; // of the parameters, which are tensor maps
};
struct alignas(64) Map { // of the emulator
    uint64_t address, sizes[3], strides[3];
    uint32_t box[3], rank, element_bytes;
};
static_assert(sizeof(Map) == 128, "CUtensorMap");
struct Launch {
    Function *function;
    unsigned grid[3], block[3];
    size_t shared;
    std::vector<uint64_t> arguments;
    std::vector<Map> maps; // one for each parameter; of tensor maps
};
typedef std::vector<Launch> Graph;
struct Stream {
    bool capturing;
    Graph graph;
};

Emulate *emulate;
std::map<std::string, int> parameter_counts;
std::map<std::string, unsigned> map_parameters;
std::map<std::string, int> calls;
std::map<std::string, int> failures; // symbol -> error
std::map<uint64_t, uint64_t> allocations; // host address -> bytes
int contexts_pushed, major_version = 8, minor_version = 0, devices = 1;
char last_message[512];
Stream default_stream;

int enter(const char *symbol)
{
    calls[symbol]++;
    const auto found = failures.find(symbol);
    return found == failures.end() ? 0 : found->second;
}

// The host address of a device address, or 0.
uint64_t host_of(uint64_t address)
{
    return address & TAG ? address & ~TAG : 0;
}

Stream *stream_of(void *stream)
{
    return stream ? (Stream *)stream : &default_stream;
}

int run(const Launch &launch)
{
    std::vector<Region> regions;
    for (const auto &a : allocations) {
        regions.push_back({ (unsigned char *)a.first, a.second, 1, 1, "device memory" });
    }
    std::vector<void *> arguments;
    std::vector<Map> maps = launch.maps;
    for (size_t n = 0; n < launch.arguments.size(); n++) {
        const uint64_t a = launch.arguments[n];
        if (launch.function->maps >> n & 1u) {
            maps[n].address = host_of(maps[n].address);
            arguments.push_back(&maps[n]);
            continue;
        }
        if (!host_of(a)) {
            return 1;
        }
        arguments.push_back((void *)host_of(a));
    }
    return emulate(launch.function->name.c_str(), launch.grid, launch.block, launch.shared, arguments.data(), regions.data(),
                   (int)regions.size(), 1, last_message, sizeof last_message)
        ? 719
        : 0;
}

} // namespace

#define ENTER()                              \
    const int failure = enter(__func__);     \
    if (failure) return failure;

extern "C" {

// --- for tests
void fake_emulator(Emulate *function) { emulate = function; }
void fake_kernel(const char *name, int parameters, unsigned maps)
{
    parameter_counts[name] = parameters;
    map_parameters[name] = maps;
}
int fake_calls(const char *symbol) { return calls[symbol]; }
void fake_reset(void)
{
    calls.clear();
    failures.clear();
    major_version = 8;
    minor_version = 0;
    devices = 1;
}
void fake_fail(const char *symbol, int error) { failures[symbol] = error; }
void fake_gpu(int count, int major, int minor)
{
    devices = count;
    major_version = major;
    minor_version = minor;
}
int fake_allocations(void) { return (int)allocations.size(); }
const char *fake_message(void) { return last_message; }

// --- the driver
int cuInit(unsigned) { ENTER() return 0; }
int cuGetErrorName(int error, const char **text)
{
    *text = error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : error == 719 ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR_FAKE";
    return 0;
}
int cuGetErrorString(int, const char **text)
{
    *text = "as the test wanted";
    return 0;
}
int cuDeviceGetCount(int *count)
{
    ENTER()
    *count = devices;
    return 0;
}
int cuDeviceGet(int *device, int ordinal)
{
    ENTER()
    *device = ordinal;
    return 0;
}
int cuDeviceGetName(char *name, int room, int)
{
    strncpy(name, "Fake GPU", (size_t)room);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int)
{
    ENTER()
    *value = attribute == 75 ? major_version : attribute == 76 ? minor_version : 0;
    return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int)
{
    ENTER()
    *context = &contexts_pushed;
    return 0;
}
int cuDevicePrimaryCtxRelease_v2(int) { ENTER() return 0; }
int cuCtxPushCurrent_v2(void *)
{
    ENTER()
    contexts_pushed++;
    return 0;
}
int cuCtxPopCurrent_v2(void **)
{
    ENTER()
    contexts_pushed--;
    return 0;
}
int cuModuleLoadData(void **module, const void *image)
{
    ENTER()
    *module = (void *)image;
    return image ? 0 : 1;
}
int cuModuleUnload(void *) { ENTER() return 0; }
int cuModuleGetFunction(void **function, void *, const char *name)
{
    ENTER()
    const auto found = parameter_counts.find(name);
    if (found == parameter_counts.end()) return 500;
    *function = new Function{ name, found->second, map_parameters[name] };
    return 0;
}
int cuFuncSetAttribute(void *, int, int) { ENTER() return 0; }
int cuMemAlloc_v2(uint64_t *address, size_t bytes)
{
    ENTER()
    if (!contexts_pushed) return 201;
    void *const memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset(memory, 0xff, bytes);
    allocations[(uint64_t)memory] = bytes;
    *address = (uint64_t)memory | TAG;
    return 0;
}
int cuMemFree_v2(uint64_t address)
{
    ENTER()
    const auto found = allocations.find(host_of(address));
    if (found == allocations.end()) return 1;
    free((void *)found->first);
    allocations.erase(found);
    return 0;
}
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes)
{
    ENTER()
    if (!host_of(to) || (uint64_t)from & TAG) return 1;
    memcpy((void *)host_of(to), from, bytes);
    return 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream)
{
    ENTER()
    if (stream_of(stream)->capturing || !host_of(to) || (uint64_t)from & TAG) return 1;
    memcpy((void *)host_of(to), from, bytes);
    return 0;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream)
{
    ENTER()
    if (stream_of(stream)->capturing || !host_of(from) || (uint64_t)to & TAG) return 1;
    memcpy(to, (void *)host_of(from), bytes);
    return 0;
}
int cuStreamCreate(void **stream, unsigned)
{
    ENTER()
    *stream = new Stream{ false, {} };
    return 0;
}
int cuStreamDestroy_v2(void *stream)
{
    ENTER()
    delete (Stream *)stream;
    return 0;
}
int cuStreamSynchronize(void *stream)
{
    ENTER()
    return stream_of(stream)->capturing ? 900 : 0;
}
int cuStreamWaitEvent(void *, void *, unsigned) { ENTER() return 0; }
int cuStreamIsCapturing(void *stream, int *status)
{
    ENTER()
    *status = stream_of(stream)->capturing;
    return 0;
}
int cuStreamBeginCapture_v2(void *stream, int)
{
    ENTER()
    stream_of(stream)->capturing = true;
    stream_of(stream)->graph.clear();
    return 0;
}
int cuStreamEndCapture(void *stream, void **graph)
{
    ENTER()
    stream_of(stream)->capturing = false;
    *graph = new Graph(stream_of(stream)->graph);
    return 0;
}
int cuEventCreate(void **event, unsigned)
{
    ENTER()
    *event = new int(-1);
    return 0;
}
int cuEventDestroy_v2(void *event)
{
    ENTER()
    delete (int *)event;
    return 0;
}
int cuEventRecord(void *event, void *)
{
    ENTER()
    *(int *)event = calls["cuLaunchKernel"]; // a clock that launches advance
    return 0;
}
int cuEventSynchronize(void *event)
{
    ENTER()
    return *(int *)event < 0 ? 400 : 0;
}
int cuEventElapsedTime(float *milliseconds, void *before, void *after)
{
    ENTER()
    *milliseconds = (float)(*(int *)after - *(int *)before) * 0.5f;
    return 0;
}
int cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long)
{
    ENTER()
    *exec = new Graph(*(Graph *)graph);
    return 0;
}
int cuGraphDestroy(void *graph)
{
    ENTER()
    delete (Graph *)graph;
    return 0;
}
int cuGraphExecDestroy(void *exec)
{
    ENTER()
    delete (Graph *)exec;
    return 0;
}
int cuGraphLaunch(void *exec, void *)
{
    ENTER()
    if (!contexts_pushed) return 201;
    for (const Launch &launch : *(Graph *)exec) {
        const int error = run(launch);
        if (error) return error;
    }
    return 0;
}
// As the driver checks them: alignments, sizes of the box, and the row of the permutation.
int cuTensorMapEncodeTiled(Map *map, int type, uint32_t rank, void *address, const uint64_t *sizes, const uint64_t *strides,
                           const uint32_t *box, const uint32_t *steps, int interleave, int swizzle, int promotion, int fill)
{
    ENTER()
    const bool known = (type == 6 || type == 9) && interleave == 0 && swizzle == 3 && promotion == 3 && fill == 0;
    if ((uintptr_t)map % 64 || !known || rank < 2 || rank > 3 || (uint64_t)address % 16 || box[0] * 2 != 128) return 1;
    *map = Map{ (uint64_t)address, { 1, 1, 1 }, { 2, 0, 0 }, { 1, 1, 1 }, rank, 2 };
    for (uint32_t n = 0; n < rank; n++) {
        if (!sizes[n] || sizes[n] > 1ull << 32 || !box[n] || box[n] > 256 || steps[n] != 1) return 1;
        if (n && (strides[n - 1] % 16 || strides[n - 1] >= 1ull << 40)) return 1;
        map->sizes[n] = sizes[n];
        map->strides[n] = n ? strides[n - 1] : 2;
        map->box[n] = box[n];
    }
    return 0;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void *stream, void **parameters, void **)
{
    ENTER()
    if (!contexts_pushed) return 201;
    Launch launch = { (Function *)function, { gx, gy, gz }, { bx, by, bz }, shared, {}, {} };
    launch.maps.resize((size_t)launch.function->parameters);
    for (int i = 0; i < launch.function->parameters; i++) {
        launch.arguments.push_back(*(uint64_t *)parameters[i]);
        if (launch.function->maps >> i & 1u) launch.maps[(size_t)i] = *(Map *)parameters[i];
    }
    if (stream_of(stream)->capturing) {
        stream_of(stream)->graph.push_back(launch);
        return 0;
    }
    return run(launch);
}
}
