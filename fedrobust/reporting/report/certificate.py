"""Certified answers of an ensemble of groups of clients."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedrobust.reporting.report.values import Absent, CertificateVariant, Percent, ReportSection


class CertificateSection(ReportSection):
    """FLCert: the majority of global models that groups of clients train, on the clean test images
    (docs/certificates.md)."""

    variant: CertificateVariant = Field(
        description="disjoint: each client is in one group (FLCert-D); sampled: each group is "
        "drawn from all clients (FLCert-P)"
    )
    groups: int = Field(ge=1, description="number of groups, each with a global model")
    group_size: Absent[Annotated[int, Field(ge=1)]] = Field(
        default=None, description="clients in a sampled group; absent of disjoint ones"
    )
    alpha: Absent[Annotated[float, Field(gt=0, lt=1)]] = Field(
        default=None,
        description="chance that any certificate does not hold; absent of disjoint groups, whose "
        "certificates are certain",
    )
    images: int = Field(ge=1, description="clean test images, at least 1")
    accuracy: Percent = Field(description="of the majority's answers; percent")
    certified_accuracy: tuple[Percent, ...] = Field(
        min_length=1,
        description="share of the images whose answer is right and stays so whatever m clients do, "
        "for m = 0, 1, ..., up to the first m with 0; percent",
    )
