// A CUDA device made of host memory, for builds of torch without CUDA.
//
// A tensor on cuda:0 is an ordinary tensor with CUDA's dispatch key, so autograd, autocast and composite operators treat
// it as they treat one on a card. Below them a single fallback catches every operator, runs it on CPU aliases of its
// arguments, and hands its results back as tensors of the device. What `activate` has not switched on is not there.

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <unordered_set>
#include <vector>

namespace {

const c10::Device DEVICE(c10::DeviceType::CUDA, 0);
std::atomic<bool> active{false};
std::atomic<int64_t> operators{0}, bytes{0}, peak{0};

// --- memory ----------------------------------------------------------------------------------------------------------

// What stands behind a storage of the device: the context of its pointer.
struct Memory {
  c10::Storage host;
  int64_t size;
};

void count(int64_t change) {
  const int64_t now = bytes += change;
  peak = std::max(peak.load(), now);
}

void release(void* context) {
  auto* memory = static_cast<Memory*>(context);
  count(-memory->size);
  delete memory;
}

c10::DataPtr pointer_to(Memory* memory) {
  return {memory->host.mutable_data(), memory, &release, DEVICE};
}

c10::Storage on_device(const c10::Storage& host) {
  auto* memory = new Memory{host, static_cast<int64_t>(host.nbytes())};
  count(memory->size);
  return {c10::Storage::use_byte_size_t(), host.nbytes(), pointer_to(memory), c10::GetCPUAllocator(), true};
}

Memory* memory_of(const at::Tensor& tensor) {
  return static_cast<Memory*>(tensor.storage().data_ptr().get_context());
}

at::Tensor tensor_over(c10::Storage storage, c10::DispatchKey key, const at::Tensor& like) {
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return tensor;
}

struct PinnedAllocator final : c10::Allocator {
  struct Block {
    c10::DataPtr memory;
    PinnedAllocator* owner;
  };

  c10::DataPtr allocate(size_t size) override {
    auto* block = new Block{c10::GetCPUAllocator()->allocate(std::max<size_t>(size, 1)), this};
    std::lock_guard<std::mutex> lock(mutex);
    pinned.insert(block->memory.get());
    return {block->memory.get(), block, &free, c10::Device(c10::DeviceType::CPU)};
  }

  static void free(void* context) {
    auto* block = static_cast<Block*>(context);
    {
      std::lock_guard<std::mutex> lock(block->owner->mutex);
      block->owner->pinned.erase(block->memory.get());
    }
    delete block;
  }

  bool holds(const void* data) {
    std::lock_guard<std::mutex> lock(mutex);
    return pinned.count(data) > 0;
  }

  void copy_data(void* to, const void* from, size_t size) const override {
    default_copy_data(to, from, size);
  }

  std::mutex mutex;
  std::unordered_set<const void*> pinned;
};

PinnedAllocator& pinned_memory() {
  static auto* allocator = new PinnedAllocator;  // outlives every tensor
  return *allocator;
}

// --- operators -------------------------------------------------------------------------------------------------------

// The arguments of one call, on the device and on the host.
class Exchange {
 public:
  c10::IValue to_host(const c10::IValue& value) {
    if (value.isTensor()) return host_of(value.toTensor());
    if (value.isDevice()) return value.toDevice().is_cuda() ? c10::Device(c10::DeviceType::CPU) : value.toDevice();
    if (!value.isList()) return value;
    c10::impl::GenericList list(value.toList().elementType());
    for (const c10::IValue& entry : value.toListRef()) list.push_back(to_host(entry));
    return list;
  }

  c10::IValue to_device(const c10::IValue& value) const {
    if (value.isTensor()) return device_of(value.toTensor());
    if (!value.isList()) return value;
    c10::impl::GenericList list(value.toList().elementType());
    for (const c10::IValue& entry : value.toListRef()) list.push_back(to_device(entry));
    return list;
  }

  void refuse_mixture(const std::string& name) const {
    static const std::unordered_set<std::string> copies{"aten::copy_", "aten::_copy_from", "aten::set_"};
    static const std::unordered_set<std::string> indexing{
        "aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"};
    if (guests.empty() || pairs.empty() || copies.count(name)) return;
    TORCH_CHECK(
        indexing.count(name) && first_is_on_device,
        name, ": expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!");
  }

  // What an operator did to the shape or the storage of an argument.
  void settle() const {
    for (const auto& [tensor, alias] : pairs) {
      auto* memory = memory_of(tensor);
      auto* storage = tensor.storage().unsafeGetStorageImpl();
      if (!alias.storage().is_alias_of(memory->host)) {
        tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(on_device(alias.storage()));
      } else if (storage->data() != memory->host.data()) {
        storage->_mutable_data_ptr_no_checks().release_context();
        storage->set_data_ptr_noswap(pointer_to(memory));
        storage->set_nbytes(memory->host.nbytes());
        count(static_cast<int64_t>(memory->host.nbytes()) - memory->size);
        memory->size = static_cast<int64_t>(memory->host.nbytes());
      }
      tensor.unsafeGetTensorImpl()->set_sizes_and_strides(alias.sizes(), alias.strides(), alias.storage_offset());
    }
  }

 private:
  at::Tensor host_of(const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (pairs.empty() && guests.empty() && scalars.empty()) first_is_on_device = tensor.is_cuda();
    if (!tensor.is_cuda()) {
      (tensor.dim() ? guests : scalars).push_back(tensor);
      return tensor;
    }
    auto alias = tensor_over(memory_of(tensor)->host, c10::DispatchKey::CPU, tensor);
    pairs.emplace_back(tensor, alias);
    return alias;
  }

  at::Tensor device_of(const at::Tensor& result) const {
    if (!result.defined()) return result;
    for (const auto& [tensor, alias] : pairs)
      if (result.is_same(alias)) return tensor;
    for (const auto* given : {&guests, &scalars})
      for (const auto& tensor : *given)
        if (result.is_same(tensor)) return tensor;
    for (const auto& [tensor, alias] : pairs)  // a view
      if (result.storage().is_alias_of(alias.storage()))
        return tensor_over(tensor.storage(), c10::DispatchKey::CUDA, result);
    return tensor_over(on_device(result.storage()), c10::DispatchKey::CUDA, result);
  }

  std::vector<std::pair<at::Tensor, at::Tensor>> pairs;  // of the device, and its alias
  std::vector<at::Tensor> guests, scalars;               // of the CPU, with and without dimensions
  bool first_is_on_device = false;
};

void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  TORCH_CHECK(active, "Torch not compiled with CUDA enabled");
  ++operators;
  Exchange exchange;
  const size_t arguments = op.schema().arguments().size();
  for (auto value = stack->end() - arguments; value != stack->end(); ++value) *value = exchange.to_host(*value);
  exchange.refuse_mixture(op.schema().name());
  {
    at::AutoDispatchBelowADInplaceOrView no_autograd;
    c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    op.callBoxed(stack);
  }
  exchange.settle();
  const size_t results = op.schema().returns().size();
  for (auto value = stack->end() - results; value != stack->end(); ++value) *value = exchange.to_device(*value);
}

// --- what torch asks of a device -------------------------------------------------------------------------------------

struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Device getDevice() const override { return DEVICE; }
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
};

struct Hooks final : at::CUDAHooksInterface {
  void init() const override {}
  bool hasCUDA() const override { return active; }
  bool isBuilt() const override { return active; }
  bool isAvailable() const override { return active; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return active; }
  c10::DeviceIndex deviceCount() const override { return active ? 1 : 0; }
  c10::DeviceIndex current_device() const override { return active ? 0 : -1; }
  int getNumGPUs() const override { return active ? 1 : 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  bool isPinnedPtr(const void* data) const override { return active && pinned_memory().holds(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory(); }
};

// torch asks for its hooks once and keeps them: they are exchanged in place, whenever that was.
static_assert(sizeof(Hooks) == sizeof(at::CUDAHooksInterface));

}  // namespace

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

// Composite by name, but with a kernel of each device within.
TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  for (const char* name : {"copy_"}) library.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

extern "C" {
void activate(bool on) {
  static const Guard* guard = new Guard;
  static auto* hooks = new (const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks())) Hooks;
  (void)hooks;
  active = on;
  c10::impl::device_guard_impl_registry[static_cast<size_t>(c10::DeviceType::CUDA)].store(on ? guard : nullptr);
}
int64_t num_operators() { return operators; }
int64_t num_bytes() { return bytes; }
int64_t peak_bytes() { return peak; }
void reset_peak() { peak = bytes.load(); }
}
