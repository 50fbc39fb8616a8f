// Convolutions in float32 and bfloat16 for XLA on CPU: forward (and with it the gradient of the images) and the gradient
// of the kernel. Images are NHWC, kernels HWIO, everything row-major. `ganjax/models/layers/convolution.py` says what the modes are.
//
// Both work on blocks of rows that are copied with their zero padding into a buffer that fits the second-level cache.
// There the taps of one line of a kernel, for all input channels, are neighbours in memory, so that a tile of outputs
// is a plain matrix product held in registers: `P` pixels by `B` vectors of output channels forward, `T` inputs by `B`
// vectors of output channels for the kernel's gradient. Every sum runs in the same order whatever the number of threads.
//
// bfloat16 is added up in float32. Where the processor has AVX-512 BF16, an instruction multiplies and adds two
// neighbours at once, so that the buffers hold pairs: of inputs forward, of pixels for the kernel's gradient. Elsewhere,
// and for few output channels, the buffers hold floats.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <type_traits>
#include <vector>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

#if defined(__AVX512F__)
constexpr int V = 16;  // floats of a vector
#elif defined(__AVX__)
constexpr int V = 8;
#else
constexpr int V = 4;
#endif
// Registers: 32 with AVX-512 and NEON, 16 otherwise.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int WIDE = 12, SINGLE = 16;
#else
constexpr int WIDE = 5, SINGLE = 8;
#endif
constexpr int FEW = 4;                      // outputs whose tiles have vectors of inputs instead
constexpr int B = 2;                        // vectors of output channels of a tile
constexpr int64_t BLOCK = 48 * 1024;        // floats of a block's padded rows
constexpr int64_t PIXELS = 256;             // of a block, where there are as many
constexpr int64_t GROUPS = 4;               // sums of a kernel's gradient that are made apart

typedef float vec __attribute__((vector_size(4 * V), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(4 * V), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(2 * V), aligned(2), may_alias));

struct Half { uint16_t bits; };        // a bfloat16: the upper half of a float
struct Pair { uint16_t first, second; };  // two of them, which an instruction takes at once

inline vec load(const float* p) { return *reinterpret_cast<const vec*>(p); }
inline vec load(const Pair* p) { return *reinterpret_cast<const vec*>(p); }
inline vec widened(halves h) { return reinterpret_cast<vec>(__builtin_convertvector(h, words) << 16); }
inline vec load(const Half* p) { return widened(*reinterpret_cast<const halves*>(p)); }
template <typename T>
inline vec load_part(const T* p, int lanes) {
  vec v = {};
  std::memcpy(&v, p, lanes * sizeof(T));
  return v;
}
template <>
inline vec load_part<Half>(const Half* p, int lanes) {
  halves h = {};
  std::memcpy(&h, p, lanes * sizeof(Half));
  return widened(h);
}

// To the nearest bfloat16, in a tie to the even one; NaN stays NaN.
inline halves rounded(vec v) {
#if defined(__AVX512BF16__)
  return reinterpret_cast<halves>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(v)));
#else
  words bits = reinterpret_cast<words>(v);
  words up = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return __builtin_convertvector(v == v ? up : words{} + 0x7fc0, halves);
#endif
}
inline uint16_t rounded(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return value == value ? static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) : 0x7fc0;
}
inline float widened(Half h) {
  uint32_t bits = static_cast<uint32_t>(h.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline void put(float* to, float value) { *to = value; }
inline void put(Half* to, float value) { to->bits = rounded(value); }

inline void copy(const float* from, int64_t count, float* to) { std::memcpy(to, from, count * sizeof(float)); }
inline void copy(const Half* from, int64_t count, Half* to) { std::memcpy(to, from, count * sizeof(Half)); }
inline void copy(const Half* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = widened(from[i]);
}
inline void copy(const float* from, int64_t count, Half* to) {
  for (int64_t i = 0; i < count; ++i) to[i].bits = rounded(from[i]);
}

// The first `lanes` of W vectors.
template <int W>
inline void store(float* to, const vec (&v)[W], int lanes) {
  if (lanes == W * V) {
    for (int b = 0; b < W; ++b) *reinterpret_cast<vec*>(to + b * V) = v[b];
  } else {
    std::memcpy(to, &v, lanes * sizeof(float));
  }
}
template <int W>
inline void store(Half* to, const vec (&v)[W], int lanes) {
  halves h[W];
  for (int b = 0; b < W; ++b) h[b] = rounded(v[b]);
  if (lanes == W * V) {
    for (int b = 0; b < W; ++b) *reinterpret_cast<halves*>(to + b * V) = h[b];
  } else {
    std::memcpy(to, &h, lanes * sizeof(Half));
  }
}

// sum + first · first + second · second, lane by lane; `one` is the same pair for all lanes.
#if defined(__AVX512BF16__)
constexpr bool PAIRS = true;
inline vec add_pairs(vec sum, Pair one, vec pairs) {
  int bits;
  std::memcpy(&bits, &one, sizeof bits);
  const __m512i all = _mm512_set1_epi32(bits);
  return reinterpret_cast<vec>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(all),
                                                reinterpret_cast<__m512bh>(pairs)));
}
#else
constexpr bool PAIRS = false;
inline vec add_pairs(vec sum, Pair, vec) { return sum; }  // nothing calls it
#endif
inline Pair pair_at(const Half* p) {
  Pair pair;
  std::memcpy(&pair, p, sizeof pair);
  return pair;
}

// Runs `work(i)` for i below `count`, here and on the threads of XLA's pool that are free. A caller never waits for a
// task that has not begun, so that callers which are themselves tasks of the pool cannot block each other.
class Tasks {
 public:
  template <typename Work>
  static void run(ffi::ThreadPool& pool, int64_t count, const Work& work) {
    int64_t helpers = std::min<int64_t>(pool.num_threads(), count) - 1;
    if (helpers <= 0) {
      for (int64_t i = 0; i < count; ++i) work(i);
      return;
    }
    auto tasks = std::make_shared<Tasks>();
    tasks->count = count;
    auto take = [tasks, &work] {  // `work` is only touched by who has got a number, for which the caller waits
      int64_t done = 0;
      for (int64_t i; (i = tasks->next.fetch_add(1)) < tasks->count; ++done) work(i);
      if (done && tasks->done.fetch_add(done) + done == tasks->count) {
        std::lock_guard<std::mutex> lock(tasks->mutex);
        tasks->finished.notify_all();
      }
    };
    for (int64_t i = 0; i < helpers; ++i) pool.Schedule(std::decay_t<decltype(take)>(take));
    take();
    std::unique_lock<std::mutex> lock(tasks->mutex);
    tasks->finished.wait(lock, [&] { return tasks->done.load() == tasks->count; });
  }

 private:
  std::atomic<int64_t> next{0}, done{0};
  int64_t count = 0;
  std::mutex mutex;
  std::condition_variable finished;
};

struct Shape {
  int64_t n, h, w, in;         // of the images that are read
  int64_t rows, columns, out;  // of the result, or of the slope
  int64_t kh, kw, stride;
  int64_t top, left;                          // zeros before the images
  int64_t out_image, out_row, out_pixel;      // floats from one image, row, pixel of the result to the next

  Shape(ffi::Span<const int64_t> x, ffi::Span<const int64_t> y, int64_t kh, int64_t kw, int64_t stride, int64_t top, int64_t left)
      : n(x[0]), h(x[1]), w(x[2]), in(x[3]), rows(y[1]), columns(y[2]), out(y[3]), kh(kh), kw(kw), stride(stride),
        top(top), left(left), out_image(rows * columns * out), out_row(columns * out), out_pixel(out) {}

  int64_t line() const { return ((columns - 1) * stride + kw) * in; }          // floats of a padded row
  int64_t lines(int64_t rs) const { return (rs - 1) * stride + kh; }           // padded rows that `rs` rows need
  int64_t pixel_step() const { return stride * in; }
  int64_t row_step() const { return stride * line(); }
};

// Blocks of `images` whole images, or of `rows` rows of one.
struct Blocks {
  int64_t images, rows, per_image, count;

  Blocks(const Shape& s, int64_t within) {
    rows = std::min(s.rows, std::max<int64_t>(1, (BLOCK / s.line() - s.kh) / s.stride + 1));
    rows = std::min(rows, (PIXELS + s.columns - 1) / s.columns);
    per_image = (s.rows + rows - 1) / rows;
    rows = (s.rows + per_image - 1) / per_image;
    images = 1;
    if (per_image == 1) {
      int64_t fitting = BLOCK / (s.lines(rows) * s.line());
      int64_t wanted = (PIXELS + s.rows * s.columns - 1) / (s.rows * s.columns);
      images = std::max<int64_t>(1, std::min({fitting, wanted, within}));
    }
    count = (within + images - 1) / images * per_image;
  }

  // First image, images, first row, rows of block `i` of the images [begin, end).
  void at(const Shape& s, int64_t i, int64_t begin, int64_t end, int64_t& n, int64_t& ns, int64_t& row, int64_t& rs) const {
    n = begin + i / per_image * images;
    ns = std::min(images, end - n);
    row = i % per_image * rows;
    rs = std::min(rows, s.rows - row);
  }
};

template <typename T>
T* buffer(std::vector<T>& own, int64_t size) {
  if (static_cast<int64_t>(own.size()) < size) own.resize(size);
  return own.data();
}

// The rows that `rs` rows of the result from `row` on read, with zeros around.
template <typename E, typename X>
void pad(const Shape& s, const E* image, int64_t row, int64_t rs, X* to) {
  int64_t width = s.line() / s.in;
  int64_t from = std::max<int64_t>(0, -s.left), before = std::max<int64_t>(0, s.left);
  int64_t kept = std::max<int64_t>(0, std::min(s.w - from, width - before));
  for (int64_t r = 0; r < s.lines(rs); ++r, to += s.line()) {
    int64_t y = row * s.stride + r - s.top;
    if (y < 0 || y >= s.h) {
      std::fill(to, to + s.line(), X{});
      continue;
    }
    std::fill(to, to + before * s.in, X{});
    copy(image + (y * s.w + from) * s.in, kept * s.in, to + before * s.in);
    std::fill(to + (before + kept) * s.in, to + s.line(), X{});
  }
}

// Weights as the buffers want them: for floats one of each input, for halves those of two neighbouring inputs.
template <typename X>
using Weight = std::conditional_t<std::is_same_v<X, Half>, Pair, float>;
template <typename X>
constexpr int64_t AT_ONCE = std::is_same_v<X, Half> ? 2 : 1;

// R rows of P neighbouring pixels by W vectors of outputs. `w` is packed as [kh, kw · in / AT_ONCE, W · V]; `lanes` are the
// outputs there are. The last pair of an odd number of inputs reads one input too many, whose weight is 0.
template <int R, int P, int W, typename X, typename E>
__attribute__((always_inline)) inline void forward_tile(const Shape& s, const X* x, const Weight<X>* w, E* y, int lanes) {
  vec sum[R][P][W] = {};
  const int64_t length = s.kw * s.in, stride = s.pixel_step(), step = s.row_step();
  for (int64_t a = 0; a < s.kh; ++a) {
    const X* line = x + a * s.line();
    for (int64_t k = 0; k < length; k += AT_ONCE<X>, w += W * V) {
      vec weights[W];
      for (int b = 0; b < W; ++b) weights[b] = load(w + b * V);
      for (int r = 0; r < R; ++r) {
        for (int p = 0; p < P; ++p) {
          const X* at = line + r * step + p * stride + k;
          for (int b = 0; b < W; ++b) {
            if constexpr (std::is_same_v<X, Half>) {
              sum[r][p][b] = add_pairs(sum[r][p][b], pair_at(at), weights[b]);
            } else {
              sum[r][p][b] += *at * weights[b];
            }
          }
        }
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) store<W>(y + r * s.out_row + p * s.out_pixel, sum[r][p], lanes);
}

template <int R, int P, int W, typename X, typename E>
__attribute__((noinline)) int64_t forward_full(const Shape& s, int64_t from, const X* x, const Weight<X>* w, E* y, int lanes) {
  for (; from + P <= s.columns; from += P) forward_tile<R, P, W>(s, x + from * s.pixel_step(), w, y + from * s.out_pixel, lanes);
  return from;
}

// `rs` rows of the result, W vectors of its channels.
template <int P, int W, typename X, typename E>
void forward_rows(const Shape& s, int64_t rs, const X* x, const Weight<X>* w, E* y, int lanes) {
  int64_t r = 0;
  if (s.columns == 4)  // a tile of one such row has too few sums to keep the processor busy
    for (; r + 2 <= rs; r += 2) forward_full<2, 4, W>(s, 0, x + r * s.row_step(), w, y + r * s.out_row, lanes);
  for (; r < rs; ++r) {
    const X* line = x + r * s.row_step();
    E* to = y + r * s.out_row;
    int64_t from = 0;
    // A width that P does not divide is cheaper in tiles of 8 if they divide it.
    if (s.columns % P == 0 || s.columns % 8) from = forward_full<1, P, W>(s, from, line, w, to, lanes);
    from = forward_full<1, 8, W>(s, from, line, w, to, lanes);
    from = forward_full<1, 4, W>(s, from, line, w, to, lanes);
    forward_full<1, 1, W>(s, from, line, w, to, lanes);
  }
}

inline float total(vec v) {
  float sum = 0.0f;
  for (int i = 0; i < V; ++i) sum += v[i];
  return sum;
}

// For results of few channels: P neighbouring pixels by O outputs, vectors along the inputs. `w` is [kh, O, kw · in].
template <int P, int O, typename E>
__attribute__((noinline)) int64_t dot_full(const Shape& s, int64_t from, const float* x, const float* w, E* y) {
  const int64_t length = s.kw * s.in;
  for (; from + P <= s.columns; from += P) {
    vec sum[P][O] = {};
    for (int64_t a = 0; a < s.kh; ++a) {
      const float* line = x + a * s.line() + from * s.pixel_step();
      const float* weights = w + a * O * length;
      auto add = [&](int64_t k, auto get) {
        vec values[O];
        for (int o = 0; o < O; ++o) values[o] = get(weights + o * length + k);
        for (int p = 0; p < P; ++p) {
          vec value = get(line + p * s.pixel_step() + k);
          for (int o = 0; o < O; ++o) sum[p][o] += value * values[o];
        }
      };
      int64_t k = 0;
      for (; k + V <= length; k += V) add(k, [](const float* p) { return load(p); });
      if (k < length) add(k, [&](const float* p) { return load_part(p, static_cast<int>(length - k)); });
    }
    for (int p = 0; p < P; ++p)
      for (int o = 0; o < O; ++o) put(y + (from + p) * s.out_pixel + o, total(sum[p][o]));
  }
  return from;
}

template <int O, typename E>
void dot_rows(const Shape& s, int64_t rs, const float* x, const float* w, E* y) {
  for (int64_t r = 0; r < rs; ++r) {
    int64_t from = dot_full<4, O>(s, 0, x + r * s.row_step(), w, y + r * s.out_row);
    dot_full<1, O>(s, from, x + r * s.row_step(), w, y + r * s.out_row);
  }
}

bool few_outputs(const Shape& s) { return s.out <= FEW && s.kw * s.in >= 2 * V; }

// [kh, kw, in, out] in slices of B vectors of outputs, the last filled with zeros, by lines [kw · in] of which neighbours
// may be pairs. Flipped, the kernel is read with its places in reverse and its channels exchanged.
template <typename X>
void pack(const Shape& s, const float* w, bool flip, Weight<X>* to) {
  const int64_t taps = s.kh * s.kw, length = s.kw * s.in;
  if constexpr (std::is_same_v<X, float>) {
    if (few_outputs(s)) {  // [kh, out, kw, in]
      for (int64_t a = 0; a < s.kh; ++a)
        for (int64_t o = 0; o < s.out; ++o)
          for (int64_t t = a * s.kw; t < (a + 1) * s.kw; ++t)
            for (int64_t i = 0; i < s.in; ++i)
              *to++ = flip ? w[((taps - 1 - t) * s.out + o) * s.in + i] : w[(t * s.in + i) * s.out + o];
      return;
    }
  }
  const int64_t step = flip ? s.in : 1;  // from one output to the next
  for (int64_t o = 0; o < s.out;) {
    const int64_t slice = s.out - o > V ? B * V : V, kept = std::min(slice, s.out - o);
    auto at = [&](int64_t a, int64_t k) {
      int64_t t = a * s.kw + k / s.in, i = k % s.in;
      return flip ? w + ((taps - 1 - t) * s.out + o) * s.in + i : w + (t * s.in + i) * s.out + o;
    };
    for (int64_t a = 0; a < s.kh; ++a) {
      for (int64_t k = 0; k < length; k += AT_ONCE<X>, to += slice) {
        const float* from = at(a, k);
        if constexpr (std::is_same_v<X, Half>) {
          const float* next = k + 1 < length ? at(a, k + 1) : nullptr;
          for (int64_t j = 0; j < kept; ++j)
            to[j] = {rounded(from[j * step]), next ? rounded(next[j * step]) : uint16_t{0}};
        } else if (flip) {
          for (int64_t j = 0; j < kept; ++j) to[j] = from[j * step];
        } else {
          std::memcpy(to, from, kept * sizeof(float));
        }
        std::fill(to + kept, to + slice, Weight<X>{});
      }
    }
    o += slice;
  }
}

// E: of images and result; X: of the buffers.
template <typename X, typename E>
void forward_by(const Shape& s, ffi::ThreadPool& pool, const E* x, const float* w, bool flip, E* y) {
  thread_local std::vector<Weight<X>> packing;
  const int64_t depth = s.kh * ((s.kw * s.in + AT_ONCE<X> - 1) / AT_ONCE<X>);
  Weight<X>* packed = buffer(packing, depth * ((s.out + V - 1) / V + 1) * V);
  pack<X>(s, w, flip, packed);
  Blocks blocks(s, s.n);
  Tasks::run(pool, blocks.count, [&](int64_t i) {
    thread_local std::vector<X> padding;
    int64_t n, ns, row, rs;
    blocks.at(s, i, 0, s.n, n, ns, row, rs);
    int64_t size = s.lines(rs) * s.line();
    X* padded = buffer(padding, ns * size + 1);
    padded[ns * size] = X{};  // which the last pair may read
    for (int64_t m = 0; m < ns; ++m) pad(s, x + (n + m) * s.h * s.w * s.in, row, rs, padded + m * size);
    auto each = [&](auto rows) {
      for (int64_t m = 0; m < ns; ++m) rows(padded + m * size, y + (n + m) * s.out_image + row * s.out_row);
    };
    if constexpr (std::is_same_v<X, float>) {
      if (few_outputs(s)) {
        each([&](const float* from, E* to) {
          switch (s.out) {
            case 1: return dot_rows<1>(s, rs, from, packed, to);
            case 2: return dot_rows<2>(s, rs, from, packed, to);
            case 3: return dot_rows<3>(s, rs, from, packed, to);
            case 4: return dot_rows<4>(s, rs, from, packed, to);
          }
        });
        return;
      }
    }
    const Weight<X>* weights = packed;
    for (int64_t o = 0; o < s.out;) {
      int64_t slice = s.out - o > V ? B * V : V;
      int lanes = static_cast<int>(std::min(slice, s.out - o));
      each([&](const X* from, E* to) {
        if (slice > V) {
          forward_rows<WIDE, B>(s, rs, from, weights, to + o, lanes);
        } else {
          forward_rows<SINGLE, 1>(s, rs, from, weights, to + o, lanes);
        }
      });
      weights += depth * slice;
      o += slice;
    }
  });
}

template <typename E>
void forward(const Shape& s, ffi::ThreadPool& pool, const E* x, const float* w, bool flip, E* y) {
  if constexpr (PAIRS && std::is_same_v<E, Half>) {
    if (!few_outputs(s)) return forward_by<Half>(s, pool, x, w, flip, y);
  }
  forward_by<float>(s, pool, x, w, flip, y);
}

// What a tile of the kernel's gradient sums over: `ns` images of `rs` rows, of padded inputs and of slopes.
struct Span {
  int64_t ns, rs;
  int64_t inputs, slopes;  // values from one image to the next
};

// Pixels that an input and a slope of these types are of.
template <typename X>
constexpr int64_t PIXELS_AT_ONCE = std::is_same_v<X, Pair> ? 2 : 1;

// Adds to T lines of the kernel's gradient, W vectors of outputs each: Σ over the pixels, x times slope. X and G are float
// and float or Half, or both pairs of neighbouring pixels.
template <int T, int W, bool PART, typename X, typename G>
__attribute__((noinline)) void kernel_tile(const Shape& s, const Span& span, const X* x, const G* slope, float* sum, int lanes) {
  vec total[T][W];
  auto get = [&](const auto* p, int b) {
    return PART && b == W - 1 ? load_part(p + b * V, lanes - (W - 1) * V) : load(p + b * V);
  };
  const int64_t groups = (s.columns + PIXELS_AT_ONCE<X> - 1) / PIXELS_AT_ONCE<X>;
  for (int t = 0; t < T; ++t)
    for (int b = 0; b < W; ++b) total[t][b] = get(sum + t * s.out, b);
  for (int64_t m = 0; m < span.ns; ++m) {
    for (int64_t r = 0; r < span.rs; ++r) {
      const X* line = x + m * span.inputs + r * s.row_step();
      const G* above = slope + m * span.slopes + r * groups * s.out;
      for (int64_t c = 0; c < groups; ++c, line += PIXELS_AT_ONCE<X> * s.pixel_step(), above += s.out) {
        vec outputs[W];
        for (int b = 0; b < W; ++b) outputs[b] = get(above, b);
        for (int t = 0; t < T; ++t) {
          for (int b = 0; b < W; ++b) {
            if constexpr (std::is_same_v<X, Pair>) {
              total[t][b] = add_pairs(total[t][b], line[t], outputs[b]);
            } else {
              total[t][b] += line[t] * outputs[b];
            }
          }
        }
      }
    }
  }
  for (int t = 0; t < T; ++t) store<W>(sum + t * s.out, total[t], PART ? lanes : W * V);
}

// All lines of the gradient that one line of the kernel has, W vectors of outputs.
template <int T, int W, bool PART, typename X, typename G>
void kernel_lines(const Shape& s, const Span& span, const X* x, const G* slope, float* sum, int lanes) {
  const int64_t length = s.kw * s.in;
  int64_t j = 0;
  for (; j + T <= length; j += T) kernel_tile<T, W, PART>(s, span, x + j, slope, sum + j * s.out, lanes);
  for (; j + 8 <= length; j += 8) kernel_tile<8, W, PART>(s, span, x + j, slope, sum + j * s.out, lanes);
  for (; j + 4 <= length; j += 4) kernel_tile<4, W, PART>(s, span, x + j, slope, sum + j * s.out, lanes);
  for (; j < length; ++j) kernel_tile<1, W, PART>(s, span, x + j, slope, sum + j * s.out, lanes);
}

template <int T, int W, typename X, typename G>
void kernel_slice(const Shape& s, const Span& span, const X* x, const G* slope, float* sum, int lanes) {
  if (lanes == W * V) {
    kernel_lines<T, W, false>(s, span, x, slope, sum, lanes);
  } else {
    kernel_lines<T, W, true>(s, span, x, slope, sum, lanes);
  }
}

// For O outputs in all, vectors along the inputs: all lines of the gradient that one line of the kernel has.
template <int O, typename G>
void kernel_few(const Shape& s, const Span& span, const float* x, const G* slope, float* sum) {
  const int64_t length = s.kw * s.in;
  for (int64_t j = 0; j < length; j += 4 * V) {
    const int64_t kept = std::min<int64_t>(4 * V, length - j);
    vec total[O][4] = {};
    auto add = [&](auto get) __attribute__((always_inline)) {
      for (int64_t m = 0; m < span.ns; ++m) {
        for (int64_t r = 0; r < span.rs; ++r) {
          const float* line = x + m * span.inputs + r * s.row_step() + j;
          const G* above = slope + m * span.slopes + r * s.columns * O;
          for (int64_t c = 0; c < s.columns; ++c, line += s.pixel_step(), above += O) {
            float outputs[O];
            copy(above, O, outputs);
            for (int b = 0; b < 4; ++b) {
              vec inputs = get(line, b);
              for (int o = 0; o < O; ++o) total[o][b] += outputs[o] * inputs;
            }
          }
        }
      }
    };
    if (kept == 4 * V) {
      add([](const float* p, int b) { return load(p + b * V); });
    } else {
      add([&](const float* p, int b) {
        int64_t lanes = std::min<int64_t>(V, kept - b * V);
        return lanes == V ? load(p + b * V) : load_part(p + b * V, static_cast<int>(std::max<int64_t>(0, lanes)));
      });
    }
    for (int o = 0; o < O; ++o)
      for (int64_t k = 0; k < kept; ++k) sum[(j + k) * O + o] += total[o][k / V][k % V];
  }
}

// Padded rows as pairs of what neighbouring pixels of the result read: an input, and that of the next pixel.
template <typename E>
void pair_inputs(const Shape& s, const E* image, int64_t row, int64_t rs, Pair* to) {
  thread_local std::vector<Half> padding;
  const int64_t lines = s.lines(rs), length = s.line(), next = s.pixel_step();
  Half* padded = buffer(padding, lines * length);
  pad(s, image, row, rs, padded);
  for (int64_t r = 0; r < lines; ++r, padded += length, to += length) {
    const int64_t paired = std::max<int64_t>(0, length - next);
    for (int64_t j = 0; j < paired; ++j) to[j] = {padded[j].bits, padded[j + next].bits};
    for (int64_t j = paired; j < length; ++j) to[j] = {padded[j].bits, 0};
  }
}

// [lines, columns, out] as pairs of neighbouring pixels; after an odd number of them comes a 0.
inline void pair_slopes(const Shape& s, const Half* slope, int64_t lines, Pair* to) {
  for (int64_t r = 0; r < lines; ++r, slope += s.columns * s.out) {
    for (int64_t c = 0; c < s.columns; c += 2, to += s.out) {
      const Half *one = slope + c * s.out, *other = one + s.out;
      if (c + 1 < s.columns) {
        for (int64_t o = 0; o < s.out; ++o) to[o] = {one[o].bits, other[o].bits};
      } else {
        for (int64_t o = 0; o < s.out; ++o) to[o] = {one[o].bits, 0};
      }
    }
  }
}

// What one line of the kernel gets from a block, all output channels.
template <typename X, typename G>
void kernel_line(const Shape& s, const Span& span, const X* x, const G* slope, float* sum) {
  if constexpr (std::is_same_v<X, float>) {
    if (few_outputs(s)) {
      switch (s.out) {
        case 1: return kernel_few<1>(s, span, x, slope, sum);
        case 2: return kernel_few<2>(s, span, x, slope, sum);
        case 3: return kernel_few<3>(s, span, x, slope, sum);
        case 4: return kernel_few<4>(s, span, x, slope, sum);
      }
    }
  }
  for (int64_t o = 0; o < s.out;) {
    int64_t slice = s.out - o > V ? B * V : V;
    int lanes = static_cast<int>(std::min(slice, s.out - o));
    if (slice > V) {
      kernel_slice<WIDE, B>(s, span, x, slope + o, sum + o, lanes);
    } else {
      kernel_slice<SINGLE, 1>(s, span, x, slope + o, sum + o, lanes);
    }
    o += slice;
  }
}

template <typename X, typename E>
void kernel_gradient_by(const Shape& s, ffi::ThreadPool& pool, const E* x, const E* slope, float* result) {
  const int64_t size = s.kh * s.kw * s.in * s.out, groups = std::max<int64_t>(1, std::min(GROUPS, s.n));
  thread_local std::vector<float> adding;
  float* sums = buffer(adding, (groups - 1) * size);
  Tasks::run(pool, groups, [&](int64_t g) {
    thread_local std::vector<X> padding;
    float* sum = g ? sums + (g - 1) * size : result;
    std::fill(sum, sum + size, 0.0f);
    int64_t begin = s.n * g / groups, end = s.n * (g + 1) / groups;
    Blocks blocks(s, end - begin);
    for (int64_t i = 0; i < blocks.count; ++i) {
      int64_t n, ns, row, rs;
      blocks.at(s, i, begin, end, n, ns, row, rs);
      int64_t image = s.lines(rs) * s.line();
      X* padded = buffer(padding, ns * image);
      const E* above = slope + (n * s.rows + row) * s.columns * s.out;
      const int64_t per_image = s.rows * s.columns * s.out, line = s.kw * s.in * s.out;
      if constexpr (std::is_same_v<X, Pair>) {
        thread_local std::vector<Pair> pairing;
        const int64_t paired = rs * ((s.columns + 1) / 2) * s.out;
        Pair* slopes = buffer(pairing, ns * paired);
        for (int64_t m = 0; m < ns; ++m) {
          pair_inputs(s, x + (n + m) * s.h * s.w * s.in, row, rs, padded + m * image);
          pair_slopes(s, above + m * per_image, rs, slopes + m * paired);
        }
        const Span span{ns, rs, image, paired};
        for (int64_t a = 0; a < s.kh; ++a) kernel_line(s, span, padded + a * s.line(), slopes, sum + a * line);
      } else {
        for (int64_t m = 0; m < ns; ++m) pad(s, x + (n + m) * s.h * s.w * s.in, row, rs, padded + m * image);
        const Span span{ns, rs, image, per_image};
        for (int64_t a = 0; a < s.kh; ++a) kernel_line(s, span, padded + a * s.line(), above, sum + a * line);
      }
    }
  });
  for (int64_t g = 1; g < groups; ++g)
    for (int64_t i = 0; i < size; ++i) result[i] += sums[(g - 1) * size + i];
}

template <typename E>
void kernel_gradient(const Shape& s, ffi::ThreadPool& pool, const E* x, const E* slope, float* result) {
  if constexpr (PAIRS && std::is_same_v<E, Half>) {
    if (!few_outputs(s)) return kernel_gradient_by<Pair>(s, pool, x, slope, result);
  }
  kernel_gradient_by<float>(s, pool, x, slope, result);
}

// The filter (1, 3, 3, 1) / 8 along both axes of [h, w, c], with `around` zeros on every side: row r of the result has rows
// r - around to r - around + 3 of the image. Rows are filtered along themselves when they are first needed, four are kept.
void smooth(int64_t h, int64_t w, int64_t c, int64_t around, const float* x, float* y) {
  thread_local std::vector<float> rows;
  const int64_t grown = 2 * around - 3, read = w * c, length = (w + grown) * c, after = 3 - around;
  float* padded = buffer(rows, 4 * length + read + 2 * around * c);
  float* kept = padded + read + 2 * around * c;
  std::fill(padded, padded + around * c, 0.0f);
  std::fill(padded + around * c + read, kept, 0.0f);
  auto sum = [&](const float* a, const float* b, const float* d, const float* e, float* to) {
    for (int64_t i = 0; i < length; ++i) to[i] = 0.125f * (a[i] + e[i]) + 0.375f * (b[i] + d[i]);
  };
  auto filter = [&](int64_t r) {
    float* to = kept + (r & 3) * length;
    if (r < 0 || r >= h) {
      std::fill(to, to + length, 0.0f);
      return;
    }
    std::memcpy(padded + around * c, x + r * read, read * sizeof(float));
    sum(padded, padded + c, padded + 2 * c, padded + 3 * c, to);
  };
  for (int64_t r = -around; r < after; ++r) filter(r);
  for (int64_t r = 0; r < h + grown; ++r) {
    filter(r + after);
    auto row = [&](int64_t k) { return kept + ((r - around + k) & 3) * length; };
    sum(row(0), row(1), row(2), row(3), y + r * length);
  }
}

// What a 3×3 kernel is together with doubling each pixel before it ("up") or adding up 2×2 pixels after it ("down").
//
// Down: a row of results reads four rows of images, the first by k₀, the next by k₀ + k₁, then k₁ + k₂ and k₂: one kernel
// of 4×4 with stride 2. Up: even rows of results read two rows of images by k₀ and k₁ + k₂, odd ones by k₀ + k₁ and k₂: a
// kernel of 2×2 for each of four phases. That is 16 products for each small pixel where the plain way makes 36.
//
// Strided: every other pixel of a 3×3 convolution without zeros around, H of 2H + 1 rows. Spread, its transpose: zeros
// between the pixels and all around before it, 2H + 1 of H rows. Its phases never multiply a zero between pixels: even rows
// of results, one more than there are of images, read two of them by k₀ and k₂, odd ones read one by k₁.
bool takes_part(int64_t row, int64_t k) { return row == k || row == k + 1; }  // of the four rows above

// [4, 4, in, out] of [3, 3, in, out]; both may be flipped, which leaves the channels in the places they had.
void widen(const float* w, int64_t channels, float* to) {
  for (int64_t a = 0; a < 4; ++a) {
    for (int64_t b = 0; b < 4; ++b, to += channels) {
      std::fill(to, to + channels, 0.0f);
      for (int64_t t = 0; t < 9; ++t)
        if (takes_part(a, t / 3) && takes_part(b, t % 3))
          for (int64_t i = 0; i < channels; ++i) to[i] += w[t * channels + i];
    }
  }
}

// The other way round, for gradients: every tap gets what the places it takes part in have.
void narrow(const float* wide, int64_t channels, float* to) {
  std::fill(to, to + 9 * channels, 0.0f);
  for (int64_t a = 0; a < 4; ++a)
    for (int64_t b = 0; b < 4; ++b, wide += channels)
      for (int64_t t = 0; t < 9; ++t)
        if (takes_part(a, t / 3) && takes_part(b, t % 3))
          for (int64_t i = 0; i < channels; ++i) to[t * channels + i] += wide[i];
}

enum Mode { PLAIN = 0, UP = 1, DOWN = 2, STRIDED = 3, SPREAD = 4 };

// One of the 2×2 phases of a result, by a kernel of its own: `rows` × `columns` places, two apart, from (a, b) on. The first
// reads the images with `top` and `left` zeros in front.
template <typename E>
void forward_phase(ffi::Span<const int64_t> xs, ffi::Span<const int64_t> ys, ffi::ThreadPool& pool, const E* x,
                   const float* kernel, int64_t kh, int64_t kw, int64_t top, int64_t left, int64_t rows, int64_t columns,
                   bool flip, E* y, int64_t a, int64_t b) {
  Shape s(xs, ys, kh, kw, 1, top, left);
  s.rows = rows;
  s.columns = columns;
  s.out_row = 2 * ys[2] * s.out;
  s.out_pixel = 2 * s.out;
  forward(s, pool, x, kernel, flip, y + (a * ys[2] + b) * s.out);
}

template <typename E>
void forward_in(ffi::Span<const int64_t> xs, ffi::Span<const int64_t> ws, ffi::Span<const int64_t> ys, ffi::ThreadPool& pool,
                const E* x, const float* w, E* y, int64_t mode, int64_t top, int64_t left, bool flip) {
  if (mode == PLAIN || mode == STRIDED) {
    Shape s(xs, ys, ws[0], ws[1], mode == STRIDED ? 2 : 1, top, left);
    return forward(s, pool, x, w, flip, y);
  }
  thread_local std::vector<float> widening, phasing;
  const int64_t channels = ws[2] * ws[3];
  float* kernel = buffer(phasing, 4 * channels);
  if (mode == SPREAD) {
    for (int64_t phase = 0; phase < 4; ++phase) {
      const int64_t a = phase / 2, b = phase % 2;
      const int64_t kh = 2 - a, kw = 2 - b;
      for (int64_t place = 0; place < kh * kw; ++place) {
        int64_t row = a ? 1 : 2 * (place / kw), column = b ? 1 : 2 * (place % kw);
        std::memcpy(kernel + place * channels, w + (3 * row + column) * channels, channels * sizeof(float));
      }
      forward_phase(xs, ys, pool, x, kernel, kh, kw, 1 - a, 1 - b, xs[1] + 1 - a, xs[2] + 1 - b, flip, y, a, b);
    }
    return;
  }
  float* wide = buffer(widening, 16 * channels);
  widen(w, channels, wide);
  if (mode == DOWN) {
    Shape s(xs, ys, 4, 4, 2, 1, 1);
    return forward(s, pool, x, wide, flip, y);
  }
  for (int64_t phase = 0; phase < 4; ++phase) {
    const int64_t a = phase / 2, b = phase % 2;
    // Places 0 and 2 of the four are k₀ and k₁ + k₂, places 1 and 3 are k₀ + k₁ and k₂; flipped, the other way round.
    for (int64_t place = 0; place < 4; ++place) {
      int64_t row = 2 * (place / 2) + (flip ? 1 - a : a), column = 2 * (place % 2) + (flip ? 1 - b : b);
      std::memcpy(kernel + place * channels, wide + (4 * row + column) * channels, channels * sizeof(float));
    }
    forward_phase(xs, ys, pool, x, kernel, 2, 2, 1 - a, 1 - b, xs[1], xs[2], flip, y, a, b);
  }
}

template <typename E>
void kernel_gradient_in(ffi::Span<const int64_t> xs, ffi::Span<const int64_t> ys, ffi::Span<const int64_t> ws,
                        ffi::ThreadPool& pool, const E* x, const E* slope, float* w, int64_t mode, int64_t top, int64_t left) {
  if (mode == PLAIN || mode == STRIDED) {
    Shape s(xs, ys, ws[0], ws[1], mode == STRIDED ? 2 : 1, top, left);
    return kernel_gradient(s, pool, x, slope, w);
  }
  thread_local std::vector<float> widening;
  Shape s(xs, ys, 4, 4, 2, 1, 1);
  float* wide = buffer(widening, 16 * s.in * s.out);
  kernel_gradient(s, pool, x, slope, wide);
  narrow(wide, s.in * s.out, w);
}

using Images = ffi::Buffer<ffi::F32, 4>;
using HalfImages = ffi::Buffer<ffi::BF16, 4>;
using Result = ffi::ResultBuffer<ffi::F32, 4>;
using HalfResult = ffi::ResultBuffer<ffi::BF16, 4>;

const Half* halves_of(const HalfImages& x) { return reinterpret_cast<const Half*>(x.typed_data()); }
Half* halves_of(HalfResult& y) { return reinterpret_cast<Half*>(y->typed_data()); }

ffi::Error Forward(ffi::ThreadPool pool, Images x, Images w, Result y, int64_t mode, int64_t top, int64_t left, bool flip) {
  forward_in(x.dimensions(), w.dimensions(), y->dimensions(), pool, x.typed_data(), w.typed_data(), y->typed_data(), mode,
             top, left, flip);
  return ffi::Error::Success();
}

ffi::Error ForwardHalf(ffi::ThreadPool pool, HalfImages x, HalfImages w, HalfResult y, int64_t mode, int64_t top,
                       int64_t left, bool flip) {
  thread_local std::vector<float> kernels;
  const int64_t size = w.element_count();
  float* kernel = buffer(kernels, size);
  copy(halves_of(w), size, kernel);
  forward_in(x.dimensions(), w.dimensions(), y->dimensions(), pool, halves_of(x), kernel, halves_of(y), mode, top, left, flip);
  return ffi::Error::Success();
}

ffi::Error KernelGradient(ffi::ThreadPool pool, Images x, Images slope, Result w, int64_t mode, int64_t top, int64_t left) {
  kernel_gradient_in(x.dimensions(), slope.dimensions(), w->dimensions(), pool, x.typed_data(), slope.typed_data(),
                     w->typed_data(), mode, top, left);
  return ffi::Error::Success();
}

ffi::Error KernelGradientHalf(ffi::ThreadPool pool, HalfImages x, HalfImages slope, HalfResult w, int64_t mode, int64_t top,
                              int64_t left) {
  thread_local std::vector<float> kernels;
  const int64_t size = w->element_count();
  float* kernel = buffer(kernels, size);
  kernel_gradient_in(x.dimensions(), slope.dimensions(), w->dimensions(), pool, halves_of(x), halves_of(slope), kernel, mode,
                     top, left);
  copy(kernel, size, halves_of(w));
  return ffi::Error::Success();
}

ffi::Error Smooth(ffi::ThreadPool pool, Images x, Result y, int64_t around) {
  auto xs = x.dimensions(), ys = y->dimensions();
  const int64_t image = xs[1] * xs[2] * xs[3], result = ys[1] * ys[2] * ys[3];
  Tasks::run(pool, xs[0], [&](int64_t n) {
    smooth(xs[1], xs[2], xs[3], around, x.typed_data() + n * image, y->typed_data() + n * result);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(GanjaxSmooth, Smooth,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Images>().Ret<Images>().Attr<int64_t>("around"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(GanjaxForward, Forward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Images>().Arg<Images>().Ret<Images>()
                                  .Attr<int64_t>("mode").Attr<int64_t>("top").Attr<int64_t>("left").Attr<bool>("flip"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(GanjaxForwardHalf, ForwardHalf,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<HalfImages>().Arg<HalfImages>().Ret<HalfImages>()
                                  .Attr<int64_t>("mode").Attr<int64_t>("top").Attr<int64_t>("left").Attr<bool>("flip"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(GanjaxKernelGradient, KernelGradient,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Images>().Arg<Images>().Ret<Images>()
                                  .Attr<int64_t>("mode").Attr<int64_t>("top").Attr<int64_t>("left"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(GanjaxKernelGradientHalf, KernelGradientHalf,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<HalfImages>().Arg<HalfImages>().Ret<HalfImages>()
                                  .Attr<int64_t>("mode").Attr<int64_t>("top").Attr<int64_t>("left"));
