"Every public name, for notebooks: `from cifake.all import *`"
from cifake.data.core import (
    LABELS,
    OBJECTS,
    show_versions,
)
from cifake.data.pictures import (
    read_picture,
)
from cifake.data.find import (
    download_cifake,
    find_cifake,
)
from cifake.data.dataset import (
    Cifake,
    check_cifake,
    read_items,
    split_items,
)
from cifake.data.demo import (
    demo_cifake,
)
from cifake.data.loaders import (
    cifake_block,
    cifake_dls,
    memory_dls,
    test_dl,
)
from cifake.data.augment import (
    RandomBlur,
    RandomJPEG,
    RandomNoise,
    RandomResample,
    cifake_tfms,
)
from cifake.models.networks import (
    MLP,
    BirdLotfiCNN,
    CifakeNet,
    LeNet,
    register_model,
)
from cifake.models.registry import (
    CifakeViT,
    create_model,
    list_models,
)
from cifake.training.recipes import (
    RECIPES,
    Recipe,
    get_recipe,
    list_recipes,
)
from cifake.measure.calibration import (
    Calibration,
    choose_threshold,
    unsure_band,
)
from cifake.measure.report import (
    Report,
)
from cifake.measure.evaluate import (
    calibrate,
    evaluate,
    mcnemar,
    over_seeds,
)
from cifake.training.runs import (
    plot_history,
    read_history,
)
from cifake.training.learner import (
    cifake_learner,
    find_lr,
)
from cifake.training.train import (
    load_run,
    resume_run,
    train_learner,
)
from cifake.explain.interpret import (
    CifakeInterpretation,
)
from cifake.explain.spectrum import (
    mean_spectrum,
    plot_spectrum,
)
from cifake.explain.maps import (
    attention_maps,
    cam_maps,
    plot_maps,
)
from cifake.explain.agreement import (
    map_overlap,
)
from cifake.explain.faithfulness import (
    faithfulness,
)
from cifake.explain.verdict import (
    occlusion_map,
    stability,
)
from cifake.measure.robustness import (
    CORRUPTIONS,
    corrupt,
    cross_dataset_table,
    plot_robustness,
    robustness_table,
)
from cifake.training.compare import (
    compare_recipes,
    cost_of,
    leaderboard,
    plot_leaderboard,
)
from cifake.training.objects import (
    object_dls,
    train_objects,
    transfer_table,
)
from cifake.training.search import (
    PAPER_SPACES,
    best_recipe,
    plot_search,
    search_recipe,
)
from cifake.serve.card import (
    list_detectors,
)
from cifake.serve.onnx import (
    export_onnx,
)
from cifake.serve.detector import (
    BatchDetector,
    Detector,
    load_detector,
    load_pretrained,
    save_detector,
)
from cifake.serve.hub import (
    from_hub,
    model_card,
    push_to_hub,
)
from cifake.serve.app import (
    build_app,
    launch_app,
)

__all__ = [name for name, value in list(globals().items()) if not name.startswith('_') and
           (name.isupper() or getattr(value, '__module__', '').startswith('cifake'))]
