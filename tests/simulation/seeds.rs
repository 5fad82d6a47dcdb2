//! Seeds that tell of something: each was, or would be, the first to notice.

use crate::ledger::STALE;
use crate::sabotage::Sabotage;

/// Schedules in which something was wrong once, or would be without a guard of production code.
pub const NAMED: &[(u64, &str)] = &[];

/// Which seed misses which guard of the mirrored code, and the promise that it then sees broken.
pub const MISSED: &[(Sabotage, u64, &str)] = &[
    (Sabotage::AppendsOnlyOnce, 0, STALE),
    (Sabotage::WaitsForNobody, 0, STALE),
    (Sabotage::AnswersWhatIsOwedAtOnce, 0, STALE),
    (Sabotage::OwesWithoutMarks, 0, STALE),
    (Sabotage::JoinsWithoutReplay, 0, STALE),
    (Sabotage::IntendsOnlyOnce, 0, STALE),
    (Sabotage::LeavesWithItsLease, 0, STALE),
    (Sabotage::IntendsNothing, 0, STALE),
    (Sabotage::ClientsCancelMutations, 0, STALE),
    (Sabotage::LeavesWithMutationsOpen, 0, STALE),
    (Sabotage::RetriesMutations, 0, STALE),
    (Sabotage::UnknownPurgesNothing, 0, STALE),
    (Sabotage::ConflictPurgesNothing, 0, STALE),
    (Sabotage::UnknownNamesNothing, 0, STALE),
    (Sabotage::ValuesWithoutWildcard, 0, STALE),
    (Sabotage::RequestTagsAlone, 0, STALE),
    (Sabotage::ResponseTagsAlone, 0, STALE),
    (Sabotage::StampsLate, 0, STALE),
    (Sabotage::FreshensLate, 0, STALE),
    (Sabotage::PurgedByLastModified, 0, STALE),
    (Sabotage::TrustsValidators, 0, STALE),
    (Sabotage::ArrivesEarly, 0, STALE),
    (Sabotage::ReusesWithoutLease, 0, STALE),
    (Sabotage::TrustsRedis, 0, STALE),
    (Sabotage::FollowsAnyFlight, 0, STALE),
    (Sabotage::FollowsWithoutLease, 0, STALE),
    (Sabotage::SharesUnjudged, 0, STALE),
    (Sabotage::StandsInUnjudged, 0, STALE),
    (Sabotage::ServesStaleUnjudged, 0, STALE),
    (Sabotage::StoresWhatSettles, 0, STALE),
    (Sabotage::SharesWhatSettles, 0, STALE),
    (Sabotage::EndsSettlingEarly, 0, STALE),
    (Sabotage::SettlesInOtherWords, 0, STALE),
    (Sabotage::LetsGoWhatOthersHold, 0, STALE),
    (Sabotage::SettlesInSilence, 0, STALE),
    (Sabotage::SharesAmongSubjects, 0, STALE),
    (Sabotage::ForwardsWhatItShouldRefuse, 0, STALE),
    (Sabotage::AnswersTheUnconfirmed, 0, STALE),
    (Sabotage::WaitsForEver, 0, STALE),
    (Sabotage::FliesTwice, 0, STALE),
];
