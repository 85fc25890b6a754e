"""The papers behind the methods, and their numbers in a text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

CITED = re.compile(r"\s?\[@([a-z0-9, @]+)\]")

_VGG = (
    "Simonyan K, Zisserman A. Very deep convolutional networks for large-scale image "
    "recognition. ICLR 2015. arXiv:1409.1556."
)

REFERENCES: Mapping[str, str] = {
    "adamw": "Loshchilov I, Hutter F. Decoupled weight decay regularization. ICLR 2019. "
    "arXiv:1711.05101.",
    "brier": "Brier GW. Verification of forecasts expressed in terms of probability. Monthly "
    "Weather Review 1950;78:1-3.",
    "cam": "Zhou B, Khosla A, Lapedriza A, Oliva A, Torralba A. Learning deep features for "
    "discriminative localization. CVPR 2016:2921-2929.",
    "cochran": "Cochran WG. The combination of estimates from different experiments. Biometrics "
    "1954;10:101-129.",
    "conformal": "Sadinle M, Lei J, Wasserman L. Least ambiguous set-valued classifiers with "
    "bounded error levels. Journal of the American Statistical Association 2019;114:223-234.",
    "conformalgroups": "Lee Y, Barber RF, Willett R. Distribution-free inference with "
    "hierarchical data. 2023. arXiv:2306.06342.",
    "convnexttiny": "Liu Z, Mao H, Wu CY, Feichtenhofer C, Darrell T, Xie S. A ConvNet for the "
    "2020s. CVPR 2022:11976-11986.",
    "cox": "Cox DR. Two further applications of a model for binary regression. Biometrika "
    "1958;45:562-565.",
    "decision": "Vickers AJ, Elkin EB. Decision curve analysis: a novel method for evaluating "
    "prediction models. Medical Decision Making 2006;26:565-574.",
    "delong": "DeLong ER, DeLong DM, Clarke-Pearson DL. Comparing the areas under two or more "
    "correlated receiver operating characteristic curves. Biometrics 1988;44:837-845.",
    "densenet121": "Huang G, Liu Z, van der Maaten L, Weinberger KQ. Densely connected "
    "convolutional networks. CVPR 2017:4700-4708.",
    "dirichlet": "Berger JO, Bernardo JM, Sun D. Overall objective priors. Bayesian Analysis "
    "2015;10:189-221.",
    "dropout": "Srivastava N, Hinton G, Krizhevsky A, Sutskever I, Salakhutdinov R. Dropout: a "
    "simple way to prevent neural networks from overfitting. Journal of Machine Learning "
    "Research 2014;15:1929-1958.",
    "efficientnetv2b0": "Tan M, Le QV. EfficientNetV2: smaller models and faster training. ICML "
    "2021:10096-10106. arXiv:2104.00298.",
    "hesterberg": "Hesterberg TC. What teachers should know about the bootstrap. The American "
    "Statistician 2015;69:371-386.",
    "holm": "Holm S. A simple sequentially rejective multiple test procedure. Scandinavian "
    "Journal of Statistics 1979;6:65-70.",
    "imagenet": "Russakovsky O, Deng J, Su H, et al. ImageNet large scale visual recognition "
    "challenge. International Journal of Computer Vision 2015;115:211-252.",
    "mobilenetv2": "Sandler M, Howard A, Zhu M, Zhmoginov A, Chen LC. MobileNetV2: inverted "
    "residuals and linear bottlenecks. CVPR 2018:4510-4520.",
    "modelcards": "Mitchell M, Wu S, Zaldivar A, et al. Model cards for model reporting. FAT* "
    "2019:220-229.",
    "neighbours": "Sun Y, Ming Y, Zhu X, Li Y. Out-of-distribution detection with deep nearest "
    "neighbors. ICML 2022. arXiv:2204.06507.",
    "newcombe": "Newcombe RG. Confidence intervals for an effect size measure based on the "
    "Mann-Whitney statistic. Part 2. Statistics in Medicine 2006;25:559-573.",
    "northcutt": "Northcutt C, Jiang L, Chuang I. Confident learning: estimating uncertainty in "
    "dataset labels. Journal of Artificial Intelligence Research 2021;70:1373-1411.",
    "obuchowski": "Obuchowski NA. Nonparametric analysis of clustered ROC curve data. Biometrics "
    "1997;53:567-578.",
    "raoscott": "Rao JNK, Scott AJ. A simple method for the analysis of clustered binary data. "
    "Biometrics 1992;48:577-585.",
    "resnet50": "He K, Zhang X, Ren S, Sun J. Deep residual learning for image recognition. CVPR "
    "2016:770-778.",
    "temperature": "Guo C, Pleiss G, Sun Y, Weinberger KQ. On calibration of modern neural "
    "networks. ICML 2017. arXiv:1706.04599.",
    "vgg16": _VGG,
    "vgg19": _VGG,
    "wilson": "Wilson EB. Probable inference, the law of succession, and statistical inference. "
    "Journal of the American Statistical Association 1927;22:209-212.",
    "youden": "Youden WJ. Index for rating diagnostic tests. Cancer 1950;3:32-35.",
}


def number_references(paragraphs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Turn [@wilson, @delong] into [1, 2], counted in the order in which papers first appear.

    Args:
        paragraphs: Texts with the keys of `REFERENCES`.

    Returns:
        The texts, and the papers cited, each with its number.
    """
    order: list[str] = []

    def cite(found: re.Match[str]) -> str:
        keys = [key.strip().removeprefix("@") for key in found[1].split(",")]
        order.extend(key for key in keys if key not in order)
        return f" [{', '.join(str(number) for number in sorted(order.index(k) + 1 for k in keys))}]"

    texts = [CITED.sub(cite, paragraph) for paragraph in paragraphs]
    return texts, [f"[{number}] {REFERENCES[key]}" for number, key in enumerate(order, 1)]
