/* Antialiased bicubic resize of a crop of 8-bit RGB: torch's pixels, in half its time, on CPUs with AVX-512.

   The arithmetic is that of torch's uint8 kernel, which is Pillow's with shorter weights: bicubic with a = -0.5, widened
   by the scale when shrinking, normalised, rounded to the finest int16 steps; across first, rounded and clamped to 8
   bits, then down. Sums are exact in int32, so in whatever order they are made the result is torch's to the last bit.

   Needed are VBMI (any bytes of a register into any order) and VNNI (two products and a sum at once): Intel since Ice
   Lake, AMD since Zen 4. Elsewhere SUPPORTED is 0 and training/loading/resize.py lets torch do it. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")))
enum { BYTES = 64 /* of a register */, ROWS = 4 /* made narrower at once */ };

typedef int16_t Pair[2]; /* the weights of two neighbouring input pixels */

typedef struct {
    int64_t size, pairs; /* of the output; of weights for each of its pixels, filled up with zeros */
    int precision;       /* weights are multiples of 2^-precision */
    int64_t *first;      /* (size) the first input pixel that counts */
    Pair *weights;       /* (size, pairs) */
} Axis;

/* Up to five neighbouring output pixels of a row, which are computed at once: one 32-bit sum for each of 15 colours. */
typedef struct {
    uint8_t order[BYTES]; /* of a register's bytes from input pixel `first` on: those that each sum takes from a pair */
    int64_t column, first;
} Group;

typedef struct {
    int64_t count;
    Group *groups;   /* (count) */
    Pair *weights;   /* (count, pairs, 16): one of a group's pairs for each sum */
} Plan;

static double cubic(double x) {
    x = fabs(x);
    return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

/* The weights of an axis of `from` pixels made into `size`; 0 when memory ran out. */
static int plan_axis(Axis *axis, int64_t from, int64_t size) {
    double scale = (double)from / size, wide = scale > 1 ? scale : 1, support = 2 * wide, largest = 0;
    int64_t taps = ((int64_t)(2 * support + 1) + 1) / 2 * 2, pairs = taps / 2; /* fewer than 2 * support + 1 count */
    double *weights = calloc(size * taps, sizeof *weights);
    *axis = (Axis){size, pairs, 0, malloc(size * sizeof *axis->first), malloc(size * pairs * sizeof *axis->weights)};
    if (!weights || !axis->first || !axis->weights) {
        free(weights);
        return 0;
    }
    for (int64_t i = 0; i < size; i++) {
        double centre = scale * (i + 0.5), total = 0, *weight = weights + i * taps;
        int64_t first = (int64_t)(centre - support + 0.5), last = (int64_t)(centre + support + 0.5);
        axis->first[i] = first = first < 0 ? 0 : first;
        int64_t count = (last < from ? last : from) - first;
        for (int64_t k = 0; k < count; k++) total += weight[k] = cubic((first + k - centre + 0.5) / wide);
        for (int64_t k = 0; k < count; k++) {
            weight[k] /= total;
            if (weight[k] > largest) largest = weight[k];
        }
    }
    while (axis->precision < 22 && (int)(0.5 + largest * (2 << axis->precision)) < 1 << 15) axis->precision++;
    for (int64_t i = 0; i < size * taps; i++) {
        double weight = weights[i] * (1 << axis->precision);
        axis->weights[i / 2][i % 2] = (int16_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    free(weights);
    return 1;
}

/* How registers are filled for the rows; 0 when memory ran out. */
static int plan_rows(Plan *plan, const Axis *axis) {
    const int64_t *first = axis->first;
    *plan = (Plan){0, calloc(axis->size, sizeof(Group)), aligned_alloc(BYTES, axis->size * axis->pairs * BYTES)};
    if (!plan->groups || !plan->weights) return 0;
    memset(plan->weights, 0, axis->size * axis->pairs * BYTES);
    for (int64_t column = 0, n; column < axis->size; column += n) {
        Group *group = plan->groups + plan->count;
        group->column = column, group->first = first[column];
        for (n = 0; n < 5 && column + n < axis->size && first[column + n] - group->first <= BYTES / 3 - 2; n++)
            for (int64_t sum = 3 * n; sum < 3 * n + 3; sum++) {
                group->order[4 * sum] = 3 * (first[column + n] - group->first) + sum % 3;
                group->order[4 * sum + 2] = group->order[4 * sum] + 3;
                for (int64_t pair = 0; pair < axis->pairs; pair++)
                    memcpy(plan->weights[(plan->count * axis->pairs + pair) * 16 + sum],
                           axis->weights[(column + n) * axis->pairs + pair], sizeof(Pair));
            }
        plan->count++;
    }
    return 1;
}

/* A register from `at`; what lies at `end` or behind it is not touched. */
AVX512 static inline __m512i load(const uint8_t *at, const uint8_t *end) {
    if (at + BYTES <= end) return _mm512_loadu_si512(at);
    return _mm512_maskz_loadu_epi8(at < end ? ~0ull >> (BYTES - (end - at)) : 0, at);
}

/* ROWS rows, `stride` bytes apart, made narrower: of `out`, in which they are `room` bytes apart, each gets 3 * size
   bytes and up to a quarter of a register of rubbish. */
AVX512 static void across(const Axis *axis, const Plan *plan, const uint8_t *rows, int64_t stride, const uint8_t *end,
                          uint8_t *out, int64_t room) {
    const __mmask64 low_bytes = 0x5555555555555555; /* of 16-bit numbers */
    const Pair *weights = plan->weights;
    for (const Group *group = plan->groups; group < plan->groups + plan->count; group++) {
        __m512i order = _mm512_loadu_si512(group->order), sums[ROWS];
        const uint8_t *at = rows + 3 * group->first;
        for (int r = 0; r < ROWS; r++) {
            sums[r] = _mm512_set1_epi32(1 << (axis->precision - 1));
            _mm_prefetch((const char *)(at + (ROWS + r) * stride), _MM_HINT_T0); /* the rows that come next */
        }
        for (int64_t pair = 0; pair < axis->pairs; pair++, at += 6, weights += 16)
            for (int r = 0; r < ROWS; r++) {
                __m512i pixels = _mm512_maskz_permutexvar_epi8(low_bytes, order, load(at + r * stride, end));
                sums[r] = _mm512_dpwssd_epi32(sums[r], pixels, _mm512_load_si512(weights));
            }
        for (int r = 0; r < ROWS; r++) {
            sums[r] = _mm512_max_epi32(_mm512_srai_epi32(sums[r], axis->precision), _mm512_setzero_si512());
            _mm_storeu_si128((void *)(out + r * room + 3 * group->column), _mm512_cvtusepi32_epi8(sums[r]));
        }
    }
}

/* Row `j` of the result, of rows kept in a ring of `mask` + 1. */
AVX512 static void down(const Axis *axis, int64_t j, const uint8_t *rows, int64_t mask, int64_t stride, int64_t bytes,
                        uint8_t *out) {
    for (int64_t x = 0; x < bytes; x += BYTES / 2) {
        __m512i low = _mm512_set1_epi32(1 << (axis->precision - 1)), high = low;
        for (int64_t pair = 0, row = axis->first[j]; pair < axis->pairs; pair++, row += 2) {
            const uint8_t *at = rows + (row & mask) * stride + x, *next = rows + ((row + 1) & mask) * stride + x;
            __m512i upper = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const void *)at));
            __m512i lower = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const void *)next));
            int32_t both;
            memcpy(&both, axis->weights[j * axis->pairs + pair], sizeof both);
            __m512i weights = _mm512_set1_epi32(both);
            low = _mm512_dpwssd_epi32(low, _mm512_unpacklo_epi16(upper, lower), weights);
            high = _mm512_dpwssd_epi32(high, _mm512_unpackhi_epi16(upper, lower), weights);
        }
        low = _mm512_srai_epi32(low, axis->precision), high = _mm512_srai_epi32(high, axis->precision);
        __m512i pixels = _mm512_max_epi16(_mm512_packs_epi32(low, high), _mm512_setzero_si512());
        __mmask32 wanted = bytes - x < BYTES / 2 ? (1u << (bytes - x)) - 1 : ~0u;
        _mm256_mask_storeu_epi8(out + x, wanted, _mm512_cvtusepi16_epi8(pixels));
    }
}

/* From `rows` rows, the first at `row`, `stride` bytes apart, into `out`; 0 when memory ran out. */
static int resize_rows(const Axis *x, const Axis *y, const uint8_t *row, const uint8_t *end, int64_t rows,
                       int64_t stride, uint8_t *out) {
    int64_t kept = ROWS, bytes = 3 * x->size, room = (bytes + 2 * BYTES - 1) / BYTES * BYTES;
    while (kept < 2 * y->pairs + ROWS) kept *= 2;
    Plan plan;
    uint8_t *ring = aligned_alloc(BYTES, kept * room);
    int enough = plan_rows(&plan, x) && ring;
    if (enough) memset(ring, 0, kept * room);
    for (int64_t j = 0, done = 0; enough && j < y->size; j++, out += bytes) {
        for (; done < rows && done < y->first[j] + 2 * y->pairs; done += ROWS, row += ROWS * stride)
            across(x, &plan, row, stride, end, ring + (done & (kept - 1)) * room, room);
        down(y, j, ring, kept - 1, room, bytes, out);
    }
    free(ring), free(plan.groups), free(plan.weights);
    return enough;
}

static int supported(void) {
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
}

static int resize_box(const Py_buffer *image, Py_ssize_t left, Py_ssize_t top, Py_ssize_t width, Py_ssize_t height,
                      Py_buffer *out) {
    const uint8_t *pixels = image->buf;
    int64_t stride = 3 * image->shape[1];
    Axis x = {0}, y = {0};
    int enough = plan_axis(&x, width, out->shape[1]) && plan_axis(&y, height, out->shape[0]) &&
                 resize_rows(&x, &y, pixels + top * stride + 3 * left, pixels + image->len, height, stride, out->buf);
    free(x.first), free(x.weights), free(y.first), free(y.weights);
    return enough;
}

#else

static int supported(void) { return 0; }

static int resize_box(const Py_buffer *image, Py_ssize_t left, Py_ssize_t top, Py_ssize_t width, Py_ssize_t height,
                      Py_buffer *out) { return 0; }

#endif

static int is_rgb(const Py_buffer *view) {
    return view->ndim == 3 && view->itemsize == 1 && view->shape[0] > 0 && view->shape[1] > 0 && view->shape[2] == 3;
}

/* resize(image, left, top, width, height, out): see training/loading/resize.py. */
static PyObject *resize(PyObject *module, PyObject *arguments) {
    PyObject *from, *to, *result = NULL;
    Py_ssize_t left, top, width, height;
    Py_buffer image, out;
    if (!PyArg_ParseTuple(arguments, "OnnnnO", &from, &left, &top, &width, &height, &to)) return NULL;
    if (PyObject_GetBuffer(from, &image, PyBUF_C_CONTIGUOUS)) return NULL;
    if (!PyObject_GetBuffer(to, &out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) {
        if (!supported())
            PyErr_SetString(PyExc_RuntimeError, "this CPU lacks AVX-512 with VBMI and VNNI");
        else if (!is_rgb(&image) || !is_rgb(&out))
            PyErr_SetString(PyExc_ValueError, "image and out must be (height, width, 3) of bytes, not empty");
        else if (left < 0 || top < 0 || width < 1 || height < 1 || width > image.shape[1] - left ||
                 height > image.shape[0] - top)
            PyErr_SetString(PyExc_ValueError, "the box lies outside of the image");
        else {
            int enough;
            Py_BEGIN_ALLOW_THREADS
            enough = resize_box(&image, left, top, width, height, &out);
            Py_END_ALLOW_THREADS
            result = enough ? Py_NewRef(Py_None) : PyErr_NoMemory();
        }
        PyBuffer_Release(&out);
    }
    PyBuffer_Release(&image);
    return result;
}

static PyMethodDef methods[] = {{"resize", resize, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_resize", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__resize(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntConstant(module, "SUPPORTED", supported())) Py_CLEAR(module);
    return module;
}
