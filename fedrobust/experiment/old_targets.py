"""Names of factories before they moved or were renamed, as manifests of older runs hold them:
accepted for one release."""

from __future__ import annotations

from collections.abc import Iterator

# old place, new place, and the names that are the same below both
_MOVED = (
    ("clients", "fedrobust.clients", "adversarial.adversarial prox.prox sgd.sgd"),
    (
        "fedrobust.contamination",
        "fedrobust.contamination.updates",
        "adaptive_etf.adaptive_etf alie.alie alie.optimal_alie fang.fang ipm.ipm "
        "ipm.optimal_ipm mimic.mimic min_max.min_max min_sum.min_sum",
    ),
    (
        "fedrobust.contamination",
        "fedrobust.contamination.corruptions",
        "artefacts.bubbles artefacts.burned_text artefacts.hair artefacts.ruler "
        "artefacts.vignette digital.jpeg digital.pixelate gaussian_noise.gaussian_noise",
    ),
    (
        "fedrobust.contamination.backdoor_edge_case",
        "fedrobust.contamination.backdoors.edge_case",
        "backdoor_edge_case",
    ),
    (
        "fedrobust.contamination.backdoor_patch",
        "fedrobust.contamination.backdoors.patch",
        "backdoor_patch",
    ),
    (
        "fedrobust.contamination.backdoor_triggers",
        "fedrobust.contamination.backdoors.triggers",
        "backdoor_blended backdoor_clinical backdoor_distributed",
    ),
    (
        "fedrobust.contamination.backdoor_updates",
        "fedrobust.contamination.backdoors.updates",
        "backdoor_neurotoxin backdoor_replacement",
    ),
    (
        "fedrobust.contamination.blurs",
        "fedrobust.contamination.corruptions.blur",
        "defocus_blur motion_blur zoom_blur",
    ),
    (
        "fedrobust.contamination.clinical_noise",
        "fedrobust.contamination.noisy_hospital",
        "clinical_noise",
    ),
    ("fedrobust.contamination.evasion", "fedrobust.contamination.adversarial_images", "evasion"),
    (
        "fedrobust.contamination.free_rider",
        "fedrobust.contamination.updates.independent",
        "free_rider",
    ),
    (
        "fedrobust.contamination.gaussian_update",
        "fedrobust.contamination.updates.independent",
        "gaussian_update",
    ),
    (
        "fedrobust.contamination",
        "fedrobust.contamination.labels",
        "label_error.label_error label_flip.label_flip label_noise.label_instance "
        "label_noise.label_pair",
    ),
    (
        "fedrobust.contamination.noises",
        "fedrobust.contamination.corruptions.noise",
        "impulse_noise shot_noise speckle_noise",
    ),
    (
        "fedrobust.contamination.not_finite",
        "fedrobust.contamination.updates.independent",
        "not_finite",
    ),
    ("fedrobust.contamination.scaling", "fedrobust.contamination.updates.independent", "scaling"),
    (
        "fedrobust.contamination.sign_flip",
        "fedrobust.contamination.updates.independent",
        "sign_flip",
    ),
    (
        "fedrobust.contamination.tones",
        "fedrobust.contamination.corruptions.colour",
        "brightness_down brightness_up contrast_down contrast_up gamma_down gamma_up saturation",
    ),
    ("fedrobust.data.csv", "fedrobust.data.sources.csv_table", "csv"),
    (
        "fedrobust.data",
        "fedrobust.data.sources",
        "ham10000.ham10000 image_folder.image_folder medmnist.medmnist",
    ),
    ("fedrobust.data.npz", "fedrobust.data.sources.npz_archive", "npz"),
    ("fedrobust.engines", "fedrobust.runtime.engines", "auto_engine inline_engine ray_engine"),
    ("fedrobust.evaluation", "fedrobust.evaluation.settings", "settings"),
    ("fedrobust.evasion", "fedrobust.contamination.evasion", "fgsm.fgsm none pgd.pgd"),
    (
        "fedrobust.evasion.library",
        "fedrobust.contamination.evasion.art_attacks",
        "autoattack carlini_wagner deepfool",
    ),
    ("fedrobust.models", "fedrobust.learning.classifier", "meff timm_model"),
    ("fedrobust.partition", "fedrobust.data.partition", "by_site dirichlet iid quantity remote"),
    (
        "fedrobust.privacy",
        "fedrobust.privacy.mechanisms",
        "clipping local_dp none secure_aggregation",
    ),
    (
        "fedrobust.purification",
        "fedrobust.defences.purification",
        "filters.gaussian filters.median_filter mdda.mdda none",
    ),
    ("fedrobust.purification.tv", "fedrobust.defences.purification.total_variation", "tv"),
    ("fedrobust.sanitising", "fedrobust.defences.sanitisation", "none slab.slab sphere.sphere"),
    (
        "strategies",
        "fedrobust.strategies",
        "bulyan.bulyan caf.caf centered_clipping.centered_clipping dnc.dnc "
        "etf_dml.etf_dml fedavg.fedavg feddf.feddf flame.flame fltrust.fltrust "
        "foolsgold.foolsgold geometric_median.geometric_median krum.krum krum.multi_krum "
        "mda.mda meamed.meamed median.median monna.monna norm_clipping.norm_clipping "
        "preaggregation.bucketing.bucketing preaggregation.clipping.arc "
        "preaggregation.nnm.nnm preaggregation.none "
        "rlr.rlr server_optimizers.adaptive.fedadagrad server_optimizers.adaptive.fedadam "
        "server_optimizers.adaptive.fedyogi server_optimizers.momentum.fedavgm "
        "server_optimizers.none signguard.signguard trimmed_mean.trimmed_mean",
    ),
)
# old name, new name
_RENAMED = (
    ("clients.cohort.cohort", "fedrobust.clients.mutual_learning.mutual_learning"),
    ("clients.mutual.mutual", "fedrobust.clients.global_distillation.global_distillation"),
    ("fedrobust.data.own.own", "fedrobust.data.sources.one_site.one_site"),
    (
        "fedrobust.purification.jpeg.jpeg",
        "fedrobust.defences.purification.filters.jpeg_compression",
    ),
    (
        "fedrobust.defences.purification.filters.jpeg",
        "fedrobust.defences.purification.filters.jpeg_compression",
    ),
    (
        "strategies.preaggregation.clipping.clipping",
        "fedrobust.strategies.preaggregation.clipping.static_clipping",
    ),
    (
        "fedrobust.strategies.preaggregation.clipping.clipping",
        "fedrobust.strategies.preaggregation.clipping.static_clipping",
    ),
)


def _old_targets() -> Iterator[tuple[str, str]]:
    for old, new, names in _MOVED:
        for name in names.split():
            yield f"{old}.{name}", f"{new}.{name}"
    yield from _RENAMED


OLD_TARGETS = dict(_old_targets())
