// What a program does on a CUDA device, and when: a library that CUDA loads into any program (CUDA_INJECTION64_PATH=…/timeline.so, TIMELINE=FILE).
//
// FILE gets a line for each kernel, copy and fill on the device and for each call of the driver: kind, begin and end in ns, name, separated by tabs.
// `scripts/gpu/benchmark --profile` builds it, with CUPTI of the CUDA toolkit or of a Python package, and adds the lines up.
#include <cupti.h>

#include <cstdio>
#include <cstdlib>
#include <initializer_list>

static FILE* file;

static void room(uint8_t** buffer, size_t* size, size_t* records) {
    *size = 4 << 20;
    *buffer = (uint8_t*)aligned_alloc(8, *size);
    *records = 0;
}

static void line(const char* kind, uint64_t begin, uint64_t end, const char* name) {
    fprintf(file, "%s\t%llu\t%llu\t%s\n", kind, (unsigned long long)begin, (unsigned long long)end, name ? name : "?");
}

static void write(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
    CUpti_Activity* record = nullptr;
    while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
        switch (record->kind) {
        case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
            const auto* it = (const CUpti_ActivityKernel9*)record;
            line("kernel", it->start, it->end, it->name);
            break;
        }
        case CUPTI_ACTIVITY_KIND_MEMCPY: {
            const auto* it = (const CUpti_ActivityMemcpy5*)record;
            line("copy", it->start, it->end, it->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_HTOD ? "to the device" : it->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_DTOH ? "to the host" : "within the device");
            break;
        }
        case CUPTI_ACTIVITY_KIND_MEMSET: {
            const auto* it = (const CUpti_ActivityMemset4*)record;
            line("fill", it->start, it->end, "fill");
            break;
        }
        case CUPTI_ACTIVITY_KIND_DRIVER: {
            const auto* it = (const CUpti_ActivityAPI*)record;
            const char* name = nullptr;
            cuptiGetCallbackName(CUPTI_CB_DOMAIN_DRIVER_API, it->cbid, &name);
            line("call", it->start, it->end, name);
            break;
        }
        default: break;
        }
    }
    free(buffer);
}

static void finish() {
    cuptiActivityFlushAll(1);
    fclose(file);
}

extern "C" int InitializeInjection() {
    const char* path = getenv("TIMELINE");
    if (!path || !(file = fopen(path, "w"))) {
        fprintf(stderr, "timeline: TIMELINE names no file that can be written\n");
        return 0;
    }
    cuptiActivityRegisterCallbacks(room, write);
    for (auto kind : {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET, CUPTI_ACTIVITY_KIND_DRIVER})
        cuptiActivityEnable(kind);
    atexit(finish);
    return 1;
}
