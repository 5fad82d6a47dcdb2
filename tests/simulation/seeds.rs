//! Seeds that tell of something: each was, or would be, the first to notice.

use crate::ledger::{FLIGHTS, FORGOTTEN, STALE, SUBJECT, UNANSWERED};
use crate::sabotage::Sabotage;

/// Schedules in which something was wrong once, or would be without a guard of production code.
pub const NAMED: &[(u64, &str)] =
    &[(10_294, "an answer that was long on its way ended, for ever, the epoch that was in force")];

/// Which seed misses which guard of the mirrored code, and the promise that it then sees broken.
pub const MISSED: &[(Sabotage, u64, &str)] = &[
    (Sabotage::AppendsOnlyOnce, 1182, STALE),
    (Sabotage::WaitsForNobody, 4, STALE),
    (Sabotage::AnswersWhatIsOwedAtOnce, 167, STALE),
    (Sabotage::OwesWithoutMarks, 677, STALE),
    (Sabotage::JoinsWithoutReplay, 5, STALE),
    (Sabotage::LeavesWithItsLease, 216, STALE),
    (Sabotage::ClientsCancelMutations, 5, UNANSWERED),
    (Sabotage::RetriesMutations, 10, FORGOTTEN),
    (Sabotage::UnknownPurgesNothing, 5, STALE),
    (Sabotage::ConflictPurgesNothing, 6, STALE),
    (Sabotage::UnknownNamesNothing, 18, STALE),
    (Sabotage::ValuesWithoutWildcard, 1, STALE),
    (Sabotage::RequestTagsAlone, 1, STALE),
    (Sabotage::ResponseTagsAlone, 0, STALE),
    (Sabotage::StampsLate, 18, STALE),
    (Sabotage::FreshensLate, 19, STALE),
    (Sabotage::PurgedByLastModified, 6, STALE),
    (Sabotage::ArrivesEarly, 19, STALE),
    (Sabotage::ReusesWithoutLease, 71, STALE),
    (Sabotage::TrustsRedis, 1, STALE),
    (Sabotage::FollowsAnyFlight, 19, STALE),
    (Sabotage::SharesUnjudged, 363, STALE),
    (Sabotage::ServesStaleUnjudged, 2, STALE),
    (Sabotage::StoresWhatSettles, 29, STALE),
    (Sabotage::LetsGoWhatOthersHold, 363, STALE),
    (Sabotage::SettlesInSilence, 29, STALE),
    (Sabotage::SharesAmongSubjects, 0, SUBJECT),
    (Sabotage::AnswersTheUnconfirmed, 674, STALE),
    (Sabotage::FliesTwice, 0, FLIGHTS),
];

/// Guards of the mirrored code that hardly any schedule misses, and why.
pub const RARE: &[(Sabotage, &str)] = &[
    (Sabotage::IntendsOnlyOnce, ""),
    (Sabotage::IntendsNothing, ""),
    (Sabotage::LeavesWithMutationsOpen, ""),
    (Sabotage::TrustsValidators, ""),
    (Sabotage::FollowsWithoutLease, ""),
    (Sabotage::StandsInUnjudged, ""),
    (Sabotage::SharesWhatSettles, ""),
    (Sabotage::EndsSettlingEarly, ""),
    (Sabotage::SettlesInOtherWords, ""),
    (Sabotage::ForwardsWhatItShouldRefuse, ""),
    (Sabotage::WaitsForEver, ""),
];
