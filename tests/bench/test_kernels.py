"""Classes of kernels, by names that profiles have shown."""

import pytest

from bench.step.kernels import by_class, class_of


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("nvjet_hsh_256x128_64x4_2x1_v_bz_coopA_NNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix products"),
        ("void cutlass::device_kernel<flash::FlashAttnFwdSm90<...>>", "attention"),
        ("_decode_kernel", "attention"),
        ("loss_kernel", "divergence and its gradient"),
        ("triton_poi_fused_mul_silu_1", "fused by the compiler"),
        (
            "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::BFloat16, float, true>",
            "RMS norms",
        ),
        (
            "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::FusedAdamMathFunctor<...>>",
            "optimizer and rounding of the masters",
        ),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "sums over ranks"),
        ("Memcpy DtoD (Device -> Device)", "copies and casts"),
        ("void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(...)>", "copies and casts"),
        ("void at::native::vectorized_elementwise_kernel<4, CUDAFunctor_add<float>>", "element-wise and the rest"),
    ],
)
def test_class_of_a_kernel(name: str, wanted: str):
    assert class_of(name) == wanted


def test_shares_add_up():
    found = by_class([("aten::mm", 6.0, 3), ("aten::addmm", 2.0, 1), ("aten::silu", 2.0, 5)])
    assert found == {
        "matrix products": {"ms": 8.0, "launches": 4, "share": 0.8},
        "element-wise and the rest": {"ms": 2.0, "launches": 5, "share": 0.2},
    }
