"""The closed lists of DICOM codes that may cross the imaging boundary; whatever is on no list is left out.

A code attribute is free text to whoever typed it, and a name typed there by mistake would follow the picture
into every log. Source: DICOM PS3.3 2025 (C.7.3.1.1.1, C.7.6.3.1.2, C.8.1.1, C.8.11.5, C.10.4), PS3.16 Annex L.
"""

from __future__ import annotations

# fmt: off
MODALITIES = frozenset([
    "ANN", "AR", "ASMT", "AU", "BDUS", "BI", "BMD", "CFM", "CR", "CT", "CTPROTOCOL", "DMS", "DG", "DOC", "DX",
    "ECG", "EEG", "EMG", "EOG", "EPS", "ES", "FID", "GM", "HC", "HD", "IO", "IOL", "IVOCT", "IVUS", "KER", "KO",
    "LEN", "LS", "M3D", "MG", "MR", "NM", "OAM", "OCT", "OP", "OPM", "OPT", "OPTBSV", "OPTENF", "OPV", "OSS",
    "OT", "PA", "PLAN", "POS", "PR", "PT", "PX", "REG", "RESP", "RF", "RG", "RTDOSE", "RTIMAGE", "RTINTENT",
    "RTPLAN", "RTRAD", "RTRECORD", "RTSEGANN", "RTSTRUCT", "RWV", "SEG", "SM", "SMR", "SR", "SRF", "STAIN",
    "TEXTUREMAP", "TG", "US", "VA", "XA", "XAPROTOCOL", "XC",
    # retired
    "AS", "CD", "CF", "CP", "CS", "DD", "DF", "DM", "DS", "EC", "FA", "FS", "LP", "MA", "MS", "OPR", "ST", "VF"
])
"""Defined terms of Modality (0008,0060), PS3.3 C.7.3.1.1.1, with the retired ones that old files carry."""

BODY_PARTS = frozenset([
    "3RDVENTRICLE", "4THVENTRICLE", "ABDOMEN", "ABDOMENPELVIS", "ABDOMINALAORTA", "ACA", "ACJOINT", "ADRENAL",
    "AMNIOTICFLUID", "ANKLE", "ANTCARDIACV", "ANTCOMMA", "ANTECUBITALV", "ANTSPINALA", "ANTTIBIALA",
    "ANUSRECTUMSIGMD", "AORTA", "AORTICARCH", "APPENDIX", "ARM", "ARTERY", "ASCAORTA", "ASCENDINGCOLON", "AXILLA",
    "AXILLARYA", "AXILLARYV", "AZYGOSVEIN", "BACK", "BASILARA", "BILEDUCT", "BILIARYTRACT", "BLADDER",
    "BLADDERURETHRA", "BRACHIALA", "BRACHIALV", "BRAIN", "BREAST", "BRONCHUS", "BULB", "BUTTOCK", "CALCANEUS",
    "CALF", "CAROTID", "CCA", "CELIACA", "CEPHALICV", "CEREBELLUM", "CEREBHEMISPHERE", "CEREBRALA", "CERVIX", "CFA",
    "CFV", "CHEEK", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "CHOROIDPLEXUS", "CIRCLEOFWILLIS", "CLAVICLE",
    "COCCYX", "COLON", "COMILIACA", "COMILIACV", "COMMONBILEDUCT", "CORNEA", "CORONARYARTERY", "CORONARYSINUS",
    "CSPINE", "CTSPINE", "CULDESAC", "DESCAORTA", "DESCENDINGCOLON", "DUODENUM", "EAC", "EAR", "ECA", "ELBOW",
    "ENDOARTERIAL", "ENDOCARDIAC", "ENDOESOPHAGEAL", "ENDOMETRIUM", "ENDONASAL", "ENDONASOPHARYNYX", "ENDORECTAL",
    "ENDORENAL", "ENDOURETERIC", "ENDOURETHRAL", "ENDOVAGINAL", "ENDOVASCULAR", "ENDOVENOUS", "ENDOVESICAL",
    "EPIDIDYMIS", "EPIGASTRIC", "ESOPHAGUS", "EXTILIACA", "EXTILIACV", "EXTJUGV", "EXTREMITY", "EYE", "EYELID",
    "FACE", "FACIALA", "FEMORALA", "FEMORALV", "FEMUR", "FETALARM", "FETALDIGIT", "FETALHEART", "FETALLEG",
    "FETALPOLE", "FIBULA", "FINGER", "FLANK", "FONTANEL", "FOOT", "FOREARM", "GALLBLADDER", "GASTRICV",
    "GENICULARA", "GESTSAC", "GLUTEAL", "GSV", "HAND", "HEAD", "HEADNECK", "HEART", "HEPATICA", "HEPATICV", "HIP",
    "HUMERUS", "HYPOGASTRIC", "HYPOPHARYNX", "IAC", "ICA", "ILEUM", "ILIACA", "ILIACV", "ILIUM", "INFMESA",
    "INFVENACAVA", "INGUINAL", "INNOMINATEA", "INNOMINATEV", "INTILIACA", "INTJUGULARV", "INTMAMMARYA",
    "INTRACRANIAL", "JAW", "JEJUNUM", "JOINT", "KIDNEY", "KNEE", "LACRIMALA", "LARGEINTESTINE", "LARYNX", "LATRIUM",
    "LATVENTRICLE", "LEG", "LFEMORALA", "LHEPATICV", "LHYPOCHONDRIAC", "LINGUALA", "LINGUINAL", "LIVER", "LLQ",
    "LLUMBAR", "LOWERLEG", "LOWERLIMB", "LPORTALV", "LPULMONARYA", "LSPINE", "LSSPINE", "LSUPPULMONARYV", "LUMBAR",
    "LUMBARA", "LUMEN", "LUNG", "LUQ", "LVENTRICLE", "MANDIBLE", "MASTOID", "MAXILLA", "MCA", "MEDIASTINUM",
    "MESENTRICA", "MESENTRICV", "MIDHEPATICV", "MORISONSPOUCH", "MOUTH", "NASOPHARYNX", "NECK", "NECKCHEST",
    "NECKCHESTABDOMEN", "NECKCHESTABDPELV", "NOSE", "OCCIPTALV", "OCCPITALA", "OPHTHALMICA", "OPTICCANAL", "ORBIT",
    "OVARY", "PANCBILEDUCT", "PANCREAS", "PANCREATICDUCT", "PARASTERNAL", "PARATHYROID", "PAROTID", "PATELLA",
    "PCA", "PELVIS", "PELVISLOWEXTREMT", "PENILEA", "PENIS", "PERINEUM", "PERONEALA", "PHANTOM", "PHARYNX",
    "PHARYNXLARYNX", "PLACENTA", "POPLITEALA", "POPLITEALFOSSA", "POPLITEALV", "PORTALV", "POSCOMMA", "POSTIBIALA",
    "PROFFEMA", "PROFFEMV", "PROSTATE", "PULMONARYA", "PULMONARYV", "RADIALA", "RADIUS", "RADIUSULNA", "RATRIUM",
    "RECTUM", "RENALA", "RENALV", "RETROPERITONEUM", "RFEMORALA", "RHEPATICV", "RHYPOCHONDRIAC", "RIB", "RINGUINAL",
    "RLQ", "RLUMBAR", "RPORTALV", "RPULMONARYA", "RSUPPULMONARYV", "RUQ", "RVENTRICLE", "SAPHENOUSV", "SCALP",
    "SCAPULA", "SCJOINT", "SCLERA", "SCROTUM", "SELLA", "SEMVESICLE", "SESAMOID", "SFA", "SFJ", "SFV", "SHOULDER",
    "SIGMOID", "SIJOINT", "SKULL", "SMA", "SMALLINTESTINE", "SPINALCORD", "SPINE", "SPLEEN", "SPLENICA", "SPLENICV",
    "SSPINE", "STERNUM", "STOMACH", "SUBCLAVIANA", "SUBCLAVIANV", "SUBCOSTAL", "SUBMANDIBULAR", "SUPRACLAVICULAR",
    "SUPRAPUBIC", "SUPTHYROIDA", "SVC", "TESTIS", "THALAMUS", "THIGH", "THORACICAORTA", "THORAX", "THUMB", "THYMUS",
    "THYROID", "TIBIA", "TIBIAFIBULA", "TLSPINE", "TMJ", "TOE", "TONGUE", "TRACHEA", "TRACHEABRONCHUS",
    "TRANSVERSECOLON", "TSPINE", "ULNA", "ULNARA", "UMBILICAL", "UMBILICALA", "UMBILICALV", "UPPERARM", "UPPERLIMB",
    "UPRURINARYTRACT", "URETER", "URETHRA", "UTERUS", "VAGINA", "VEIN", "VERTEBRALA", "VULVA", "WHOLEBODY", "WRIST",
    "ZYGOMA",
    # with no term there, yet what archives write
    "ANUS", "FETUS", "FOREFOOT", "GROIN", "HINDFOOT", "LENS", "OROPHARYNX", "PARANASALSINUS", "PERITONEUM",
    "SACRUM", "SINUS", "SKIN"
])
"""Body Part Examined (0018,0015): the terms of PS3.16 Table L-1, its own misspellings and the older ARM, JAW and
LEG included."""

VIEW_POSITIONS = frozenset([
    "AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO",
    # mammography, the abbreviations of PS3.16 CID 4014 and CID 4015
    "ML", "MLO", "LM", "LMO", "CC", "FB", "SIO", "ISO", "XCC", "XCCL", "XCCM", "CV", "AT", "RCC", "LCC", "RMLO", "LMLO",
    # on no list of the standard, yet what many chest archives write
    "LAT", "LATERAL", "LPO", "RPO", "LAO", "RAO"
])
"""View Position (0018,5101): the terms of PS3.3 C.8.1.1 and C.8.11.5, and what films commonly carry."""

LATERALITIES = frozenset(["R", "L", "U", "B"])
"""Image Laterality (0020,0062) and Laterality (0020,0060)."""

PHOTOMETRIC_INTERPRETATIONS = frozenset([
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "YBR_FULL", "YBR_FULL_422",
    "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT", "XYB"
])
"""Photometric Interpretation (0028,0004), PS3.3 C.7.6.3.1.2, with the retired ones."""

IMAGE_TYPES = frozenset([
    "ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "AXIAL", "LOCALIZER", "REFORMATTED", "OTHER", "MIXED", "VOLUME",
    "SPI", "HEADER_CORRECTED", "CT_SOM5 SPI", "CT_SOM7 SPI", "CT_SOM5 SEQ", "CT_SOM5 TOP", "CT_SOM7 TOP", "SCOUT",
    "TOPOGRAM", "SCANOGRAM", "SURVEY", "SCREEN SAVE", "PROJECTION IMAGE", "MPR", "CSA MPR", "CSA RESAMPLED",
    "MIP", "MINIP", "MIN_IP", "MAX_IP", "MAXIP", "AVERAGE", "MEAN", "THICK", "VRT", "SSD", "3D", "CPR", "DRR",
    "M", "P", "R", "I", "MAGNITUDE", "PHASE", "PHASE MAP", "REAL", "IMAGINARY", "M_SE", "M_FFE", "M_IR", "M_B0",
    "M_B1", "FFE", "SE", "IR", "ADC", "DIFFUSION", "TRACEW", "FA", "NORM", "ND", "DIS2D", "DIS3D", "FM", "FIL",
    "SUB", "SUBTRACTION", "ADD", "DIVISION", "RESAMPLED", "FILTERED", "NONE", "WATER", "FAT", "IN_PHASE", "OUT_PHASE",
    "OPP_PHASE", "PERFUSION", "T1", "T2", "T2_STAR", "PROTON_DENSITY", "TIME", "ANGIO", "CINE", "MOSAIC", "DSA",
    "STATIC", "DYNAMIC", "GATED", "TOMO", "RECON TOMO", "RECON GATED TOMO", "WHOLE BODY", "EMISSION", "TRANSMISSION",
    "SINGLE PLANE", "BIPLANE A", "BIPLANE B", "MONO_ENERGETIC", "MATERIAL_REMOVED", "VIRTUAL_NON_CONTRAST",
    "TOMOSYNTHESIS", "GENERATED_2D", "LEFT", "RIGHT", "AP", "LATERAL", "EPICARDIAL", "DOSE", "RT IMAGE", "PORTAL",
    "SIMULATOR", "RADIOGRAPH", "FLUENCE", "STRESS", "REST", "ABDOMINAL", "CARDIAC"
])
"""Values of Image Type (0008,0008): the standard's defined terms, and what makers commonly write."""

RESCALE_TYPES = frozenset(["OD", "HU", "US", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT"])
"""Rescale Type (0028,1054), PS3.3 C.11.1.1.2."""
# fmt: on


def known_code(value: object, codes: frozenset[str]) -> str | None:
    """The code if it is on the list, so that nothing else can pass.

    Args:
        value: what the file holds, of any type; of several values the first counts.
        codes: a list of this module.

    Returns:
        The code in capitals without padding, or None.
    """
    first = value if isinstance(value, str) else next(iter(value), "") if hasattr(value, "__iter__") else value
    text = str(first).strip().strip("\0").upper()
    return text if text in codes else None
