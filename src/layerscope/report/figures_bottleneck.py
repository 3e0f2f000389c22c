"""The figures of a bottleneck diagnosis, each from table rows alone, fresh or read back from the CSV files."""

from __future__ import annotations

from matplotlib.figure import Figure

from layerscope.report.bottleneck import BottleneckAnalysis
from layerscope.report.figures_cosines import cosine_figure
from layerscope.report.figures_loss import flips_figure, forest_figure
from layerscope.report.figures_noise import collapse_figure, heat_map_figure, t_curve_figure


def bottleneck_figures(analysis: BottleneckAnalysis, margin_macro: float, margin_label: float) -> dict[str, Figure]:
    """File name to figure; figures that have nothing to show (no noise steps, no features) are left out."""
    names = analysis.display_names
    level = analysis.verdict["overall"]["level"]
    figures: dict[str, Figure | None] = {
        "t_curve.png": t_curve_figure(analysis.t_curve, margin_macro, level),
        "label_t_heatmap.png": heat_map_figure(analysis.per_label, names),
        "collapse.png": collapse_figure(analysis.collapse, analysis.t_curve, level, names),
        "delta_auroc_forest.png": forest_figure(
            analysis.per_label, analysis.verdict, margin_macro, margin_label, names
        ),
        "flips.png": flips_figure(analysis.agreement, names),
        "stage_cosines.png": cosine_figure(analysis.agreement),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}
