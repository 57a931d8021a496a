"""The lab: what studies, measures, plans and shows what the other rooms do."""
