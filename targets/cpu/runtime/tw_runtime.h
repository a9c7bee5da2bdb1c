/* Inside the library: the descriptor that the compiler generates, and the parts of the run-time support.
 *
 * Nothing here is global and mutable: an instance owns its memory, threads and messages, so that any number of them
 * can live in one process.  Every function has hidden visibility; only the generated PREFIX_ functions are exported.
 */
#ifndef TW_RUNTIME_H
#define TW_RUNTIME_H

#include "tw_abi.h"

#include <stdatomic.h>
#include <stdbool.h>

#define TW_CACHE_LINE 64
#define TW_MAX_THREADS 4096
#define TW_MESSAGE_BYTES 512
#define TW_WEIGHTS_ID_BYTES 32

/* A required instruction set.  x86: bit of a cpuid register (0 eax .. 3 edx) at leaf and subleaf, and the register state
 * (xcr0 mask) that the system must save.  Elsewhere: bit of the auxiliary vector entry `leaf`. */
typedef struct tw_feature {
    const char *name;
    uint32_t leaf, subleaf, reg, bit;
    uint64_t state;
} tw_feature;

/* An access to memory that generated code checks. */
typedef struct tw_site {
    const char *kernel, *buffer, *access, *what;
} tw_site;

typedef void tw_main_function(void *runtime, char *arena, char *scratch, const char *constants, void *const *inputs,
                              void *const *outputs, int64_t tid, int64_t nt);

/* An output whose shape is known after a run: `main` writes it to the pointer behind those of the outputs. */
typedef struct tw_sized_output {
    uint32_t output, rank;
} tw_sized_output;

struct tw_team;

/* What an instance of a model with operators of the support code needs: see tw_support.h. */
typedef struct tw_support_functions {
    int32_t (*start)(struct tw_team *team);
    void (*stop)(struct tw_team *team);
    void (*begin)(struct tw_team *team);
    int32_t (*end)(struct tw_team *team, char *message, size_t room);
} tw_support_functions;

typedef void tw_open_main_function(void *runtime, char *arena, char *scratch, const char *constants, void *const *inputs,
                                   void *const *outputs, int64_t tid, int64_t nt, int64_t *sizes, const int64_t *plan);

/* A dimension that is open: its sizes from low to high; high -1: unbounded. */
typedef struct tw_symbol {
    const char *name;
    int64_t low, high;
} tw_symbol;

/* What a model with open dimensions has beside its descriptor: the functions of codegen/llvm_sizing.py. */
typedef struct tw_sizing {
    tw_open_main_function *main;
    int64_t (*plan)(int64_t *sizes, int64_t *plan, int64_t *needs);
    void (*shapes)(const int64_t *sizes, int64_t *shapes);
    const tw_symbol *symbols;
    const int32_t *input_symbols; /* for every dimension of the inputs: its symbol, -1 for one that is fixed or computed */
    const char *const *checks;    /* what it means that check number n + 1 fails */
    uint32_t symbol_count, slot_count;
} tw_sizing;

/* One compiled model.  `constants` is NULL when the weights lie in the file `weights_name`, which ends with weights_id. */
typedef struct tw_descriptor {
    const char *name;
    tw_main_function *main;
    uint64_t arena_bytes, scratch_bytes, constant_bytes;
    const unsigned char *constants;
    const char *weights_name;
    const unsigned char *weights_id;
    const tw_tensor_info *inputs, *outputs;
    uint32_t input_count, output_count;
    const tw_feature *features;
    uint32_t feature_count;
    int32_t best_threads; /* more are not expected to be faster; 0: no such number */
    uint32_t step_count;  /* of a profile build; 0 otherwise */
    uint32_t prepares;    /* 1: main without inputs prepares an instance, once */
    const tw_sized_output *sized; /* in the order of the pointers */
    uint32_t sized_count;
    const tw_support_functions *support; /* of a model with such operators; NULL otherwise, and they are not in the library */
    uint32_t site_count;  /* of a debug-bounds build; 0 otherwise */
    const tw_site *sites;
    const tw_sizing *sizing; /* NULL where all dimensions are fixed; then `main` is NULL, and sizes of memory are 0 */
} tw_descriptor;

typedef struct tw_model tw_model;

/* --- tw_model.c: instances ------------------------------------------------------------------------------------------ */

int32_t tw_model_create(const tw_descriptor *descriptor, const tw_options *options, tw_model **out);
int32_t tw_model_run(tw_model *model, const void *const *inputs, void *const *outputs);
int32_t tw_model_run_tensors(tw_model *model, const tw_tensor *inputs, size_t input_count, const tw_tensor *outputs,
                             size_t output_count);
int32_t tw_model_destroy(tw_model *model);
int32_t tw_model_resize(tw_model *model, const int64_t *const *input_shapes);
int32_t tw_model_output_shape(tw_model *model, size_t index, int64_t *shape, size_t rank);
int32_t tw_model_thread_count(const tw_model *model);
const char *tw_model_message(const tw_model *model);
const char *tw_status_text(int32_t status);
uint64_t tw_workspace_bytes(const tw_descriptor *descriptor, int32_t threads);
int32_t tw_model_profile(tw_model *model, int32_t thread, tw_step_time *out, size_t count);
int32_t tw_model_reset_profile(tw_model *model);

/* --- tw_check.c: what a caller passed ------------------------------------------------------------------------------- */

/* Each writes a message of at most `room` bytes and returns a status. */
int32_t tw_check_options(const tw_options *given, tw_options *out, char *message, size_t room);
/* Writes a message where the caller of create asked for it, and gives the status. */
int32_t tw_tell(const tw_options *options, const char *message, int32_t status);
int32_t tw_check_pointers(const tw_descriptor *descriptor, const void *const *inputs, void *const *outputs,
                          char *message, size_t room);
int32_t tw_check_tensors(const tw_descriptor *descriptor, const tw_tensor *inputs, size_t input_count,
                         const tw_tensor *outputs, size_t output_count, char *message, size_t room);

/* The rank of an input, which must be known before its dimensions are read. */
int32_t tw_check_rank(const tw_descriptor *descriptor, const tw_tensor *inputs, uint32_t index, char *message, size_t room);

/* --- tw_sizes.c: open dimensions ------------------------------------------------------------------------------------ */

typedef struct tw_shaped tw_shaped;

/* NULL without memory. */
tw_shaped *tw_shaped_create(const tw_descriptor *descriptor);
void tw_shaped_destroy(tw_shaped *shaped);
/* The descriptor with the shapes, bytes and memory of the last `bind`. */
const tw_descriptor *tw_shaped_descriptor(const tw_shaped *shaped);
bool tw_shaped_is_planned(const tw_shaped *shaped);
void tw_shaped_forget(tw_shaped *shaped);
/* Takes the shapes of the inputs: one array for each, of its rank.  Allocates nothing. */
int32_t tw_shaped_bind(tw_shaped *shaped, const int64_t *const *input_shapes, char *message, size_t room);
void tw_shaped_run(const tw_shaped *shaped, void *runtime, char *arena, char *scratch, const char *constants,
                   void *const *inputs, void *const *outputs, int64_t tid, int64_t nt);

/* --- tw_host.c: this machine ---------------------------------------------------------------------------------------- */

/* The first feature that this processor lacks, or NULL. */
const tw_feature *tw_missing_feature(const tw_feature *features, uint32_t count);
/* Processors that the affinity mask grants, at least 1. */
int32_t tw_affinity_cpus(void);
/* Processors that the cgroup quota grants, rounded up; 0 without a quota.  The arguments are /sys/fs/cgroup and
 * /proc/self/cgroup. */
int32_t tw_cgroup_cpus(const char *root, const char *membership);
/* Processors that this process may use at the same time, at least 1. */
int32_t tw_usable_cpus(void);

/* --- tw_memory.c: workspace and weights ----------------------------------------------------------------------------- */

/* Zeroed, page-aligned memory, in huge pages where it is large; NULL when there is none. */
void *tw_map_workspace(uint64_t bytes);
/* Larger memory instead of an old one, which may be NULL; without it the old one stays as it is. */
void *tw_grow_workspace(void *old, uint64_t old_bytes, uint64_t bytes);
void tw_unmap(const void *address, uint64_t bytes);
/* Has the system read mapped pages ahead and map them, so that the first run waits neither for the disk nor for page faults. */
void tw_will_need(const void *address, uint64_t bytes);
/* Maps the weights file read-only; *out gets the address, *mapped the bytes for tw_unmap. */
int32_t tw_map_weights(const tw_descriptor *descriptor, const char *path, const unsigned char **out, uint64_t *mapped,
                       char *message, size_t room);

/* --- tw_threads.c: threads of one instance -------------------------------------------------------------------------- */

/* A counter to wait on: spins for a while, then sleeps in the kernel. */
typedef struct tw_event {
    _Alignas(TW_CACHE_LINE) atomic_uint value;
    atomic_uint sleepers;
} tw_event;

typedef struct tw_team tw_team;
typedef struct tw_worker tw_worker;

/* The first access of a run that would have left its buffer: elements low to high of `size`. */
typedef struct tw_violation {
    atomic_int noted;
    int64_t site, low, high, size;
} tw_violation;

/* The threads that run one model together.  `body(argument, index)` is what they run; index 0 is the caller's thread. */
struct tw_team {
    _Alignas(TW_CACHE_LINE) atomic_uint arrived; /* at the current barrier */
    tw_event barrier;
    tw_event start;                              /* advanced for each run */
    tw_event done;                               /* advanced when all workers have finished */
    _Alignas(TW_CACHE_LINE) atomic_uint working; /* workers that have not finished */
    _Alignas(TW_CACHE_LINE) void (*body)(void *argument, int32_t index);
    void *argument;
    tw_thread_pool pool;
    int32_t threads;
    int32_t started; /* own threads running */
    bool spins;      /* before sleeping: there are no more threads than processors */
    bool stop;
    tw_worker *workers;
    tw_step_time *step_times; /* of a profile build: [threads][step_stride] */
    size_t step_stride;
    struct tw_support *support; /* of a model with operators of the support code: tw_support.c */
    tw_violation violation; /* of a debug-bounds build */
    atomic_uint *alive; /* own page that a fork wipes: 1 in the process that owns the threads */
};

/* Starts threads - 1 threads unless `pool` has its own.  TW_OK, TW_NO_MEMORY or TW_NO_THREADS. */
int32_t tw_team_start(tw_team *team, int32_t threads, int32_t cpus, const tw_thread_pool *pool,
                      void (*body)(void *argument, int32_t index), void *argument);
/* Runs the body on all threads and waits.  TW_OK, TW_NO_THREADS (the caller's pool failed) or TW_FORKED. */
int32_t tw_team_run(tw_team *team);
void tw_team_stop(tw_team *team);

/* Nanoseconds of the monotonic clock. */
int64_t tw_now_ns(void);

/* Called by generated code, on every thread of the team that `runtime` is. */
void tw_barrier(void *runtime);

/* --- tw_float.c: the floating-point environment ----------------------------------------------------------------------- */

/* Makes the environment of this thread the ordinary one; gives what tw_float_leave needs to bring the caller's back. */
uint64_t tw_float_enter(void);
void tw_float_leave(uint64_t state);

/* --- tw_profile.c: times of the steps of a profile build ------------------------------------------------------------- */

/* Makes the records of a started team: TW_OK or TW_NO_MEMORY; tw_profile_stop frees them. */
int32_t tw_profile_start(tw_team *team, uint32_t steps);
void tw_profile_stop(tw_team *team);
void tw_profile_reset(tw_team *team);
/* Called by generated code around step number `step`, on every thread. */
void tw_profile_enter(void *runtime, int64_t tid, int64_t step);
void tw_profile_leave(void *runtime, int64_t tid, int64_t step);

/* --- tw_bounds.c: what a debug-bounds build found ---------------------------------------------------------------------- */

/* Called by generated code instead of an access that would leave its buffer. */
void tw_out_of_bounds(void *runtime, int64_t site, int64_t low, int64_t high, int64_t size);
/* Forgets what was found: before a run. */
void tw_bounds_reset(tw_team *team);
/* TW_OK, or TW_OUT_OF_BOUNDS with a message: after a run. */
int32_t tw_bounds_status(const tw_team *team, const tw_descriptor *descriptor, char *message, size_t room);

#endif
